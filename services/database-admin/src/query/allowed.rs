//! The lists of what a query may use: functions, types, operators. A name that is on no list is refused. Which of the
//! functions the server itself holds for harmless is asked of its catalogue, in `store::reader`.

use sqlparser::ast::{ArrayElemTypeDef, BinaryOperator, DataType, TimezoneInfo, UnaryOperator};

use super::guard::folded;

/// Functions that may be called, all of `pg_catalog`. Not here, on purpose: what writes or locks; what reads files,
/// settings or large objects; what runs SQL from a string (`query_to_xml`, `ts_stat`, `dblink`); what makes much out of
/// little (`repeat`, `lpad`, `generate_subscripts` of nothing); what sleeps; what is random.
pub const FUNCTIONS: &[&str] = &[
    // aggregates
    "array_agg",
    "avg",
    "bit_and",
    "bit_or",
    "bool_and",
    "bool_or",
    "corr",
    "count",
    "covar_pop",
    "covar_samp",
    "every",
    "json_agg",
    "json_object_agg",
    "jsonb_agg",
    "jsonb_object_agg",
    "max",
    "min",
    "mode",
    "percentile_cont",
    "percentile_disc",
    "regr_slope",
    "stddev",
    "stddev_pop",
    "stddev_samp",
    "string_agg",
    "sum",
    "var_pop",
    "var_samp",
    "variance",
    // windows
    "cume_dist",
    "dense_rank",
    "first_value",
    "lag",
    "last_value",
    "lead",
    "nth_value",
    "ntile",
    "percent_rank",
    "rank",
    "row_number",
    // numbers
    "abs",
    "ceil",
    "ceiling",
    "cbrt",
    "degrees",
    "div",
    "exp",
    "floor",
    "greatest",
    "least",
    "ln",
    "log",
    "log10",
    "mod",
    "pi",
    "power",
    "radians",
    "round",
    "scale",
    "sign",
    "sqrt",
    "trunc",
    "width_bucket",
    // text
    "ascii",
    "bit_length",
    "btrim",
    "char_length",
    "character_length",
    "chr",
    "concat",
    "concat_ws",
    "decode",
    "encode",
    "initcap",
    "left",
    "length",
    "lower",
    "ltrim",
    "md5",
    "normalize",
    "octet_length",
    "position",
    "regexp_count",
    "regexp_like",
    "regexp_match",
    "regexp_replace",
    "regexp_substr",
    "replace",
    "reverse",
    "right",
    "rtrim",
    "sha256",
    "split_part",
    "starts_with",
    "strpos",
    "substr",
    "substring",
    "to_hex",
    "translate",
    "trim",
    "upper",
    "string_to_array",
    "unistr",
    // dates
    "age",
    "clock_timestamp",
    "current_date",
    "current_time",
    "current_timestamp",
    "date_bin",
    "date_part",
    "date_trunc",
    "extract",
    "isfinite",
    "justify_days",
    "justify_hours",
    "justify_interval",
    "localtime",
    "localtimestamp",
    "make_date",
    "make_interval",
    "make_time",
    "make_timestamp",
    "make_timestamptz",
    "now",
    "statement_timestamp",
    "to_char",
    "to_date",
    "to_number",
    "to_timestamp",
    "transaction_timestamp",
    // arrays and JSON
    "array_length",
    "array_lower",
    "array_ndims",
    "array_position",
    "array_positions",
    "array_remove",
    "array_to_json",
    "array_to_string",
    "array_upper",
    "cardinality",
    "json_array_elements",
    "json_array_elements_text",
    "json_array_length",
    "json_build_array",
    "json_build_object",
    "json_each",
    "json_each_text",
    "json_extract_path",
    "json_extract_path_text",
    "json_object_keys",
    "json_strip_nulls",
    "json_typeof",
    "jsonb_array_elements",
    "jsonb_array_elements_text",
    "jsonb_array_length",
    "jsonb_build_array",
    "jsonb_build_object",
    "jsonb_each",
    "jsonb_each_text",
    "jsonb_extract_path",
    "jsonb_extract_path_text",
    "jsonb_object_keys",
    "jsonb_path_exists",
    "jsonb_path_query",
    "jsonb_path_query_array",
    "jsonb_path_query_first",
    "jsonb_pretty",
    "jsonb_strip_nulls",
    "jsonb_typeof",
    "row_to_json",
    "to_json",
    "to_jsonb",
    "unnest",
    "generate_series",
    // text search
    "plainto_tsquery",
    "phraseto_tsquery",
    "to_tsquery",
    "to_tsvector",
    "ts_headline",
    "ts_rank",
    "ts_rank_cd",
    "websearch_to_tsquery",
    // conditions and network
    "coalesce",
    "nullif",
    "num_nonnulls",
    "num_nulls",
    "family",
    "host",
    "masklen",
    "netmask",
    "network",
    "inet_same_family",
    // who and where
    "current_catalog",
    "current_database",
    "current_role",
    "current_schema",
    "current_user",
    "pg_column_size",
    "pg_size_pretty",
    "pg_typeof",
    "session_user",
    "user",
    "version",
];

/// Names on the list that are the grammar's own, and in no catalogue.
pub const GRAMMAR: &[&str] = &[
    "coalesce",
    "nullif",
    "greatest",
    "least",
    "current_date",
    "current_time",
    "current_timestamp",
    "localtime",
    "localtimestamp",
    "current_catalog",
    "current_role",
    "current_user",
    "session_user",
    "user",
    "current_schema",
    "extract",
    "position",
    "substring",
    "trim",
    "normalize",
];

/// Volatile by the catalogue, and harmless all the same: it reads the clock.
pub const VOLATILE_BUT_HARMLESS: &[&str] = &["clock_timestamp"];

/// Types by name that the parser has no word of its own for.
const TYPES: &[&str] =
    &["timestamptz", "timetz", "inet", "cidr", "macaddr", "jsonpath", "bpchar", "int4", "int2", "oid"];

/// Whether a value may be cast to `data_type`. `regclass` and its kin are not here: they look names up.
pub fn data_type(data_type: &DataType) -> bool {
    match data_type {
        DataType::Array(ArrayElemTypeDef::SquareBracket(element, None)) => {
            !matches!(**element, DataType::Array(_)) && self::data_type(element)
        }
        DataType::Custom(name, modifiers) => {
            modifiers.is_empty()
                && folded(name).is_some_and(|parts| matches!(&parts[..], [one] if TYPES.contains(&one.as_str())))
        }
        DataType::Timestamp(_, zone) | DataType::Time(_, zone) => {
            matches!(
                zone,
                TimezoneInfo::None | TimezoneInfo::WithTimeZone | TimezoneInfo::WithoutTimeZone | TimezoneInfo::Tz
            )
        }
        DataType::Uuid
        | DataType::Text
        | DataType::Char(_)
        | DataType::Character(_)
        | DataType::CharacterVarying(_)
        | DataType::CharVarying(_)
        | DataType::Varchar(_)
        | DataType::Numeric(_)
        | DataType::Decimal(_)
        | DataType::Dec(_)
        | DataType::Float(_)
        | DataType::Float4
        | DataType::Float8
        | DataType::Real
        | DataType::DoublePrecision
        | DataType::Int2(None)
        | DataType::Int4(None)
        | DataType::Int8(None)
        | DataType::SmallInt(None)
        | DataType::Int(None)
        | DataType::Integer(None)
        | DataType::BigInt(None)
        | DataType::Bool
        | DataType::Boolean
        | DataType::Date
        | DataType::Interval { .. }
        | DataType::JSON
        | DataType::JSONB
        | DataType::Bytea
        | DataType::Bit(_)
        | DataType::BitVarying(_)
        | DataType::VarBit(_)
        | DataType::TsVector
        | DataType::TsQuery => true,
        _ => false,
    }
}

/// Whether an operator between two values is allowed.
pub fn binary(operator: &BinaryOperator) -> bool {
    use BinaryOperator as Op;
    matches!(
        operator,
        Op::Plus
            | Op::Minus
            | Op::Multiply
            | Op::Divide
            | Op::Modulo
            | Op::StringConcat
            | Op::Gt
            | Op::Lt
            | Op::GtEq
            | Op::LtEq
            | Op::Eq
            | Op::NotEq
            | Op::And
            | Op::Or
            | Op::BitwiseOr
            | Op::BitwiseAnd
            | Op::PGBitwiseXor
            | Op::PGBitwiseShiftLeft
            | Op::PGBitwiseShiftRight
            | Op::PGExp
            | Op::PGOverlap
            | Op::PGRegexMatch
            | Op::PGRegexIMatch
            | Op::PGRegexNotMatch
            | Op::PGRegexNotIMatch
            | Op::PGLikeMatch
            | Op::PGILikeMatch
            | Op::PGNotLikeMatch
            | Op::PGNotILikeMatch
            | Op::PGStartsWith
            | Op::Arrow
            | Op::LongArrow
            | Op::HashArrow
            | Op::HashLongArrow
            | Op::AtAt
            | Op::AtArrow
            | Op::ArrowAt
            | Op::AtQuestion
            | Op::Question
            | Op::QuestionAnd
            | Op::QuestionPipe
            | Op::Overlaps
    )
}

/// Whether an operator before a value is allowed.
pub fn unary(operator: UnaryOperator) -> bool {
    use UnaryOperator as Op;
    matches!(operator, Op::Plus | Op::Minus | Op::Not | Op::BitwiseNot | Op::PGAbs)
}
