"""What the SQL gate admits, as data. Whatever is not named here is refused.

`FUNCTIONS` and the engine's node kinds are names of DuckDB 2.0's own parse tree (`json_serialize_sql`);
`SYNTAX` are names of sqlglot's node classes. Sources: DuckDB's function reference, read for what each function can
reach (files, catalogs, settings, state) and how much it can allocate from a short statement; trials against DuckDB
2.0.0, in which single scalar calls ignored `memory_limit` and `max_execution_time`.
"""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


MAX_CHARACTERS = 256_000
"""Of a statement: room for an IN list of 5,000 codes several times over."""
MAX_TOKENS = 40_000
MAX_DEPTH = 64
"""Of brackets and CASE in each other."""
MAX_CHAIN = 600
"""Of operators in a row without a bracket or comma: `a OR b OR …` becomes a tree as deep as it is long."""
MAX_PATTERN = 1_000
"""Characters of a regular expression. The engine matches in linear time (RE2); the pattern's size is what costs."""
MAX_PAD = 1_000
"""Characters that lpad and rpad may pad to: `lpad(x, 2000000000)` took 1.2 GB under a limit of 512 MB."""

AGGREGATES = _words(
    """
    any_value approx_count_distinct approx_quantile approx_top_k arbitrary arg_max arg_min argmax argmin avg
    bit_and bit_or bit_xor bool_and bool_or corr count count_if count_star countif covar_pop covar_samp
    entropy first fsum geometric_mean geomean group_concat kahan_sum kurtosis kurtosis_pop last listagg mad
    max max_by mean median min min_by mode product quantile quantile_cont quantile_disc regr_avgx regr_avgy
    regr_count regr_intercept regr_r2 regr_slope regr_sxx regr_sxy regr_syy reservoir_quantile sem skewness
    stddev stddev_pop stddev_samp string_agg sum sumkahan var_pop var_samp variance weighted_avg list
    array_agg
    """
)

WINDOWS = _words(
    """
    cume_dist dense_rank fill first_value lag last_value lead nth_value ntile percent_rank rank rank_dense
    row_number
    """
)

OPERATORS = _words(
    """
    + - * / // % ** ^ || & | << >> ~ @ = == <> != < <= > >= ~~ !~~ ~~* !~~* ~~~ like_escape not_like_escape
    ilike_escape not_ilike_escape add subtract multiply divide mod not
    """
)

NUMBERS = _words(
    """
    abs acos asin atan atan2 bit_count cbrt ceil ceiling cos cosh cot degrees even exp floor fmod gcd greatest
    isfinite isinf isnan lcm least ln log log10 log2 nextafter pi pow power radians random round round_even
    roundbankers sign signbit sin sinh sqrt tan tanh trunc
    """
)

TEXT = _words(
    """
    ascii bit_length chr concat concat_ws contains ends_with hash instr lcase left length len lower lpad
    ltrim md5 nfc_normalize ord position prefix regexp_extract regexp_full_match regexp_matches
    regexp_replace repeat replace reverse right rpad rtrim sha256 split_part starts_with strip_accents strlen
    strpos substr substring suffix translate trim ucase unicode upper
    """
)

DATES = _words(
    """
    age century current_date current_localtimestamp current_timestamp date_add date_diff date_part date_sub
    date_trunc datediff datepart datesub datetrunc day dayname dayofmonth dayofweek dayofyear decade epoch
    epoch_ms epoch_ns epoch_us era get_current_timestamp hour isodow isoyear julian last_day make_date
    make_time make_timestamp microsecond millennium millisecond minute month monthname nanosecond now
    quarter second strftime strptime time_bucket to_centuries to_days to_decades to_hours to_microseconds
    to_millennia to_milliseconds to_minutes to_months to_quarters to_seconds to_timestamp to_weeks to_years
    today transaction_timestamp try_strptime week weekday weekofyear year yearweek timezone
    """
)

CONDITIONS = _words(
    """
    coalesce constant_or_null if ifnull isnotnull isnull nullif typeof grouping grouping_id
    """
)

SHORT_LISTS = _words(
    """
    array_append array_extract array_intersect array_length array_prepend array_slice array_to_string list_append
    list_intersect list_prepend list_slice regexp_split_to_array string_split_regex str_split_regex list_any_value list_avg list_contains list_count
    list_distinct list_element list_extract list_has list_has_all list_has_any list_max list_min
    list_position list_reverse list_sort list_sum list_unique list_value row string_split str_split
    string_to_array struct_extract struct_pack unnest cardinality array_contains array_has list_concat
    array_distinct array_sort list_first list_last array_position
    """
)

FUNCTIONS = AGGREGATES | WINDOWS | OPERATORS | NUMBERS | TEXT | DATES | CONDITIONS | SHORT_LISTS

ENGINE_NAMES = frozenset({"current_date", "current_timestamp", "localtimestamp", "current_time", "localtime"})
"""Bare names that the engine reads as a function of the clock, where no column has the name."""

BOUNDED_ARGUMENTS = {
    "regexp_matches": {1: "text"},
    "regexp_full_match": {1: "text"},
    "regexp_extract": {1: "text"},
    "regexp_replace": {1: "text"},
    "lpad": {1: "pad"},
    "rpad": {1: "pad"},
    "repeat": {0: "text", 1: "pad"},
    "string_split": {1: "text"},
    "string_split_regex": {1: "text"},
    "str_split_regex": {1: "text"},
    "regexp_split_to_array": {1: "text"},
    "strftime": {1: "text"},
    "strptime": {1: "text"},
    "try_strptime": {1: "text"},
}
"""Function -> argument, counted from 0 -> what it must be.

text: a literal of at most MAX_PATTERN characters (or, for date formats, a list of such); pad: a literal of at most
MAX_PAD, or one worked out of such and of a column's length by greatest, least and minus, as Ibis writes it.
"""

BOUNDED_HINTS = {
    "repeat": "A column is repeated with concat(x, x); lpad and rpad fill one up to a length.",
    "": "Write it into the statement; for many codes use IN (…) or the table value_set.",
}
"""Function, or "" for any other, of which an argument is no short literal -> what to use instead."""

TYPES = _words(
    """
    bigint bit bool boolean char date datetime dec decimal double float float4 float8 hugeint int int1 int16
    int2 int32 int4 int64 int8 integer interval list logical long numeric real short signed smallint string
    text time timestamp timestamptz tinyint ubigint uhugeint uint16 uint32 uint64 uint8 uinteger usmallint
    utinyint uuid varchar bpchar struct map array timestamp_s timestamp_ms timestamp_ns timestamp_us
    """
) | {"time with time zone", "timestamp with time zone", "double precision"}

QUERIES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE"})
RELATIONS = frozenset({"BASE_TABLE", "JOIN", "SUBQUERY", "EXPRESSION_LIST", "EMPTY"})
JOINS = frozenset({"REGULAR", "CROSS", "NATURAL", "ASOF"})
MODIFIERS = frozenset({"ORDER_MODIFIER", "LIMIT_MODIFIER", "DISTINCT_MODIFIER"})
EXPRESSIONS = _words(
    """
    BETWEEN CASE CAST COLLATE COLUMN_REF COMPARISON CONJUNCTION CONSTANT FUNCTION OPERATOR
    POSITIONAL_REFERENCE STAR SUBQUERY TYPE WINDOW
    """
)
COLLATIONS = _words(
    """
    nocase noaccent nfc binary c posix
    """
)

PLAIN_KEYS = _words(
    """
    class type alias literal query_location query_location_length function_name schema catalog
    qualified_name column_names collation start end exclude_clause comparison_type subquery_type
    null_order name distinct is_operator export_state try_cast index type_name ignore_nulls
    has_ignore_nulls
    """
)
"""Parts of an expression of the engine's tree that hold no further expression."""

CONSTRUCTS = {
    "RECURSIVE_CTE_NODE": (
        "WITH RECURSIVE",
        "Use a window function or a self-join over the days or months needed.",
    ),
    "INSERT_QUERY_NODE": ("INSERT", "Queries only read. Keep intermediate results as a WITH clause."),
    "UPDATE_QUERY_NODE": ("UPDATE", "Queries only read. Compute new columns in the SELECT list."),
    "DELETE_QUERY_NODE": ("DELETE", "Queries only read. Leave rows out with WHERE."),
    "COPY_QUERY_NODE": ("COPY", "Fetch the answer and write it in your own home."),
    "TABLE_FUNCTION": ("a table function in FROM", "Read the slice's tables by their names."),
    "SHOW_REF": ("SHOW, DESCRIBE or SUMMARIZE", "Look at s.tables, or GET /tables."),
    "PIVOT": (
        "PIVOT and UNPIVOT",
        "Use one aggregate with FILTER (WHERE …) a column, or UNION ALL for long form.",
    ),
    "COLUMN_DATA": ("inline data", "Use VALUES or an IN list."),
    "DELIM_GET": ("an internal relation", "Read the slice's tables by their names."),
    "POSITIONAL": ("POSITIONAL JOIN", "Join on a key: rows have no order of their own."),
    "LAMBDA": ("a lambda function", "Use a CASE, or reshape with UNNEST and aggregate."),
    "PARAMETER": ("a parameter (? or $1)", "Write the value into the statement."),
    "DEFAULT": ("DEFAULT", "Write the value into the statement."),
    "COMPREHENSION": (
        "a list comprehension",
        "Reshape with UNNEST and aggregate, or work on the list in your kernel.",
    ),
    "COLUMNS": ("COLUMNS(…)", "Name the columns, or use * EXCLUDE (…)."),
    "UNPACK": ("unpacking with *COLUMNS", "Name the columns."),
    "TRY": ("TRY(…)", "Use TRY_CAST, or test the text with regexp_full_match first."),
    "AT": ("AT (VERSION …)", "Ask for another release when the server starts."),
}
"""Refused kind of the engine's tree -> (its name in words, what to use instead)."""

INSTEAD = {
    "read_csv": "Read the slice's tables by their names; a file of your own stays in your kernel (pandas, polars).",
    "duckdb_": "Look at s.tables, or GET /tables, for what there is.",
    "pragma_": "Look at s.tables, or GET /tables, for what there is.",
    "pg_": "Look at s.tables, or GET /tables, for what there is.",
    "current_": "It says nothing about the data; s.whoami() tells who you are and what you may see.",
    "getenv": "It says nothing about the data.",
    "range": "For a calendar use the distinct months of member_month, or SELECT DISTINCT date_trunc(…).",
    "generate_series": "For a calendar use the distinct months of member_month, or SELECT DISTINCT date_trunc(…).",
    "transform": "Use UNNEST and aggregate, or work on the list in your kernel.",
    "filter": "Use UNNEST and WHERE, or work on the list in your kernel.",
    "list_filter": "Use UNNEST and WHERE, or work on the list in your kernel.",
    "array_filter": "Use UNNEST and WHERE, or work on the list in your kernel.",
    "reduce": "Use UNNEST and aggregate, or work on the list in your kernel.",
    "apply": "Use UNNEST and aggregate, or work on the list in your kernel.",
    "levenshtein": "Compare normalised text (lower, trim, regexp_replace), or fetch the few rows and compare there.",
    "jaro": "Compare normalised text (lower, trim, regexp_replace), or fetch the few rows and compare there.",
    "printf": "Use strftime for dates, lpad for zeros, CAST … AS DECIMAL for decimals.",
    "format": "Use strftime for dates, lpad for zeros, CAST … AS DECIMAL for decimals.",
    "error": "Return a column that says what is wrong.",
    "stats": "Use min, max, count and approx_count_distinct.",
    "list_": "Use UNNEST and aggregate, or work on the list in your kernel.",
    "array_": "Use UNNEST and aggregate, or work on the list in your kernel.",
    "histogram": "Use GROUP BY with count(*).",
    "to_json": "The slice holds no JSON; work on text in your kernel.",
    "to_char": "Use strftime for dates, CAST … AS VARCHAR or AS DECIMAL for numbers, lpad for zeros.",
    "to_date": "Use CAST(… AS DATE), or strptime with the format.",
    "date_format": "Use strftime.",
    "add_months": "Add an interval: x + to_months(n).",
    "make_interval": "Write INTERVAL 3 DAY, or to_days(n), to_months(n), to_years(n).",
    "getdate": "Use current_date or current_timestamp.",
    "sysdate": "Use current_date or current_timestamp.",
    "width_bucket": "Use floor((x - low) / width) for equal widths, else CASE.",
    "factorial": "Use product over the numbers, or work it out in your kernel.",
    "gamma": "Work it out in your kernel.",
    "lgamma": "Work it out in your kernel.",
    "map": "Use a struct ({'a': 1}), a CASE, or a join with the few pairs as VALUES.",
    "charindex": "Use strpos(text, part).",
    "nvl": "Use coalesce.",
    "iif": "Use if or CASE.",
    "decode": "Use CASE.",
    "isnumeric": "Use TRY_CAST(… AS DOUBLE) IS NOT NULL.",
    "initcap": "Use upper(left(x, 1)) || lower(substr(x, 2)).",
    "percentile_": "Use quantile_cont(x, 0.5) or quantile_disc.",
    "flatten": "Use UNNEST twice, or work on the list in your kernel.",
    "json": "The slice holds no JSON; work on text in your kernel.",
    "query": "Write the statement itself.",
    "regexp_": "Use regexp_matches, regexp_full_match, regexp_extract or regexp_replace.",
    "parquet_": "Look at s.tables, or GET /tables, for what there is.",
    "write_": "Fetch the answer and write it in your own home.",
    "copy": "Fetch the answer and write it in your own home.",
    "set": "Settings are the broker's.",
}
"""Leading part of a refused function or statement -> what to use instead; the longest that fits counts."""

STATEMENTS = {
    "Command": "this statement",
    "Alter": "ALTER",
    "Analyze": "ANALYZE",
    "Attach": "ATTACH",
    "Cache": "CACHE",
    "Commit": "COMMIT",
    "Copy": "COPY",
    "Create": "CREATE",
    "Delete": "DELETE",
    "Describe": "DESCRIBE",
    "Detach": "DETACH",
    "Drop": "DROP",
    "Insert": "INSERT",
    "Install": "INSTALL",
    "Export": "EXPORT",
    "Kill": "KILL",
    "LoadData": "LOAD",
    "Merge": "MERGE",
    "Pivot": "PIVOT",
    "Pragma": "PRAGMA",
    "Refresh": "REFRESH",
    "Rollback": "ROLLBACK",
    "Set": "SET",
    "Show": "SHOW",
    "Summarize": "SUMMARIZE",
    "Transaction": "a transaction",
    "TruncateTable": "TRUNCATE",
    "Update": "UPDATE",
    "Use": "USE",
}
"""sqlglot's class of a refused statement -> its name in words."""

_LOOK = "Look at s.tables, or GET /tables."
_NO_SETTINGS = "Settings are the broker's."
_READ_BY_NAME = "The slice is open already: read its tables by their names."
_ALONE = "Each query stands alone: send the SELECT itself."
STATEMENT_HINTS = {
    "this statement": "Write one SELECT in DuckDB's SQL.",
    "DESCRIBE": _LOOK,
    "SHOW": _LOOK,
    "SUMMARIZE": "Use min, max, count and approx_count_distinct; s.tables has the columns.",
    "EXPLAIN": "Plans are not shown: run the query itself, on fewer rows at first.",
    "LOAD": "The engine takes no extension; fetch the answer and go on in your kernel.",
    "INSTALL": "The engine takes no extension; fetch the answer and go on in your kernel.",
    "CALL": f"Nothing can be called by itself. {_LOOK}",
    "PRAGMA": f"{_NO_SETTINGS} {_LOOK}",
    "SET": _NO_SETTINGS,
    "RESET": _NO_SETTINGS,
    "USE": _READ_BY_NAME,
    "ATTACH": _READ_BY_NAME,
    "DETACH": _READ_BY_NAME,
    "PREPARE": _ALONE,
    "EXECUTE": _ALONE,
    "a transaction": _ALONE,
    "COMMIT": _ALONE,
    "ROLLBACK": _ALONE,
    "COPY": "Fetch the answer and write it in your own home.",
    "EXPORT": "Fetch the answer and write it in your own home.",
    "GRANT": "Who sees what is said in the grants: `workbench policy explain`.",
    "REVOKE": "Who sees what is said in the grants: `workbench policy explain`.",
}
"""Name of a refused statement -> what to use instead."""

SYNTAX = _words(
    """
    Abs Acos Add Alias Aliases All And Anonymous Any AnyValue ApproxDistinct ApproxQuantile ApproxTopK
    ArgMax ArgMin Array ArrayAgg ArrayAppend ArrayConcat ArrayContains ArrayDistinct ArrayIntersect ArrayMax ArrayMin
    ArrayOverlaps ArrayPosition ArrayPrepend ArraySize ArraySlice ArraySort ArrayToString Ascii Asin AtTimeZone Atan Atan2 Avg Between BitLength
    BitwiseAnd BitwiseAndAgg BitwiseLeftShift BitwiseNot BitwiseOr BitwiseOrAgg BitwiseRightShift BitwiseXor
    BitwiseXorAgg Boolean Bracket CTE Case Cast Cbrt Ceil Chr Coalesce Collate Column ColumnDef Concat
    ConcatWs Contains Corr Cos Cosh Cot Count CountIf CovarPop CovarSamp Cube CumeDist CurrentDate CurrentTime
    CurrentTimestamp DPipe DataType DataTypeParam Date DateAdd DateBin DateDiff DateFromParts DateSub
    DateTrunc Day DayOfMonth DayOfWeek DayOfWeekIso DayOfYear Dayname Degrees DenseRank Distinct Div Dot EQ
    EndsWith Escape Except Exists Exp Explode Extract Fetch Filter First FirstValue Floor From GT GTE Glob
    Greatest Group GroupConcat Grouping GroupingId GroupingSets Having Hour ILike Identifier If IgnoreNulls
    In IntDiv Intersect Interval IntervalOp IntervalSpan Is IsAscii IsInf IsNan Join JoinHint Kurtosis LT
    LTE Lag Last LastDay LastValue Lateral Lead Least Left Length Like Limit LimitOptions Literal Ln
    Localtime Localtimestamp Log LogicalAnd LogicalOr Lower MD5 Max Median Min Minute Mod Mode Month
    Monthname Mul NEQ Neg Not NthValue Ntile Null NullSafeEQ NullSafeNEQ Nullif Offset Or Order Ordered Pad
    Paren PercentRank PercentileCont PercentileDisc Pi Pow PropertyEQ Qualify Quantile Quarter Radians
    Rand Rank RegexpExtract RegexpFullMatch RegexpILike RegexpLike RegexpReplace RegexpSplit RegrAvgx RegrAvgy RegrCount
    RegrIntercept RegrR2 RegrSlope RegrSxx RegrSxy RegrSyy Repeat Replace RespectNulls Reverse Right Rollup Round
    RowNumber SHA2 SHA2Digest Second Select Sign SimilarTo Sin Sinh Skewness Slice Split SplitPart Sqrt Star
    StartsWith Stddev StddevPop StddevSamp StrPosition StrToDate StrToTime Struct StructExtract Sub Subquery
    Substring Sum Table TableAlias TableSample Tan Tanh TimeFromParts TimeToStr TimeToUnix TimestampFromParts
    TimestampTrunc ToDays Translate Trim Trunc TryCast TsOrDsAdd Tuple Typeof Unicode Union UnixToTime Upper
    Values Var Variance VariancePop Week WeekOfYear Where Window WindowSpec With WithinGroup Xor Year
    """
)
"""sqlglot's node classes that may stand in a statement; functions are named by the engine's own list as well."""
