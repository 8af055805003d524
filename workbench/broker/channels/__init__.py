"""The channels: LMR API, Risk API, plan data feed and tabulate, for servers of the Hub and for systems outside it."""
