// Preloaded into configurable-http-proxy (node --import). It gives unix-socket targets the keep-alive agent that TCP
// targets have. Without one every request asks its server to close; when that answers a POST before Node has ended
// the (complete) body, Node's empty last write fails with EPIPE and the visitor gets 503 instead of the answer.
import path from "node:path";
import { pathToFileURL } from "node:url";

const library = path.join(path.dirname(process.argv[1]), "../lib/configproxy.js");
const { ConfigurableProxy } = await import(pathToFileURL(library));
const options = ConfigurableProxy.prototype.proxyOptsForTarget;

ConfigurableProxy.prototype.proxyOptsForTarget = function (target) {
  return { agent: this.httpAgent, ...options.call(this, target) };
};
