//! Functions of the language that have no row in the table yet, so that a rule that calls one is told so, and not that
//! it misspelt a name. A name leaves this list when its row comes.

const LATER: &[&str] = &[
    // of a window's rows
    "collect",
    "deduplicate",
    "last_value",
    "median",
    "merge_agg",
    "percentile_cont",
    "percentile_disc",
    "stddev",
    "stddevs",
    "var",
    "vars",
    // arrays
    "array_cardinality",
    "array_concat",
    "array_contains",
    "array_contains_any",
    "array_create",
    "array_distinct",
    "array_except",
    "array_flatten",
    "array_intersect",
    "array_join",
    "array_last_position",
    "array_map",
    "array_max",
    "array_min",
    "array_position",
    "array_remove",
    "array_shuffle",
    "array_sort",
    "array_union",
    "cardinality",
    "element_at",
    "kvpair_array_to_obj",
    "repeat",
    "sequence",
    // objects
    "erase",
    "items",
    "keys",
    "obj_to_kvpair_array",
    "object",
    "object_concat",
    "object_construct",
    "object_pick",
    "object_size",
    "values",
    "zip",
    // JSON
    "json_path_exists",
    "json_path_query",
    "json_path_query_first",
    "parse_json",
    "to_json",
];

/// Whether a name that [`super::lookup`] does not know is a function of the language.
pub fn is_later(name: &str) -> bool {
    LATER.iter().any(|known| known.eq_ignore_ascii_case(name))
}
