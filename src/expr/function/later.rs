//! Functions of the language that have no row in the table yet, so that a rule that calls one is told so, and not that
//! it misspelt a name. A name leaves this list when its row comes.

const LATER: &[&str] = &[
    // of the rows before
    "acc_avg",
    "acc_count",
    "acc_max",
    "acc_min",
    "acc_sum",
    "changed_col",
    "changed_cols",
    "had_changed",
    "lag",
    "last_agg_hit_count",
    "last_agg_hit_time",
    "last_hit_count",
    "last_hit_time",
    "latest",
    "row_number",
    // that make rows and columns
    "extract",
    "unnest",
    // hashes
    "crc32",
    "md5",
    "sha1",
    "sha256",
    "sha384",
    "sha512",
    // dates
    "cur_date",
    "cur_time",
    "current_date",
    "current_time",
    "current_timestamp",
    "date_calc",
    "date_diff",
    "day",
    "day_name",
    "day_of_month",
    "day_of_week",
    "day_of_year",
    "format_time",
    "from_days",
    "from_unix_time",
    "hour",
    "last_day",
    "local_time",
    "local_timestamp",
    "microsecond",
    "minute",
    "month",
    "month_name",
    "now",
    "second",
    // others
    "bypass",
    "delay",
    "get_keyed_state",
    "meta",
    "mqtt",
    "newuuid",
    "props",
    "tstamp",
];

/// Whether a name that [`super::lookup`] does not know is a function of the language.
pub fn is_later(name: &str) -> bool {
    LATER.iter().any(|known| known.eq_ignore_ascii_case(name))
}
