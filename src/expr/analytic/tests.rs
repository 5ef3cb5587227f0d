use super::*;
use crate::value::cast;
use proptest::prelude::*;

/// Parses a JSON text.
fn value(text: &str) -> Value {
    let cell = serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    from_json(cell)
}

fn from_json(json: serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(b) => Value::Bool(b),
        serde_json::Value::Number(n) => {
            n.as_i64().map_or_else(|| Value::Float(n.as_f64().unwrap_or_default()), Value::Int)
        }
        serde_json::Value::String(text) => Value::from(text),
        serde_json::Value::Array(elements) => Value::array(elements.into_iter().map(from_json)),
        serde_json::Value::Object(members) => {
            Value::object(members.into_iter().map(|(key, value)| (key.into(), from_json(value))))
        }
    }
}

fn shown(answer: &Value) -> String {
    if answer.is_null() { "-".to_owned() } else { cast::text(answer).into_owned() }
}

/// The results for these rows of arguments, separated by blanks. `!` before a row: WHEN is false for it.
fn answers(state: &mut AnalyticState, rows: &[&str]) -> String {
    let answer = |row: &&str| {
        let (when, row) = row.strip_prefix('!').map_or((true, *row), |row| (false, row));
        let Value::Array(args) = value(&format!("[{row}]")) else { unreachable!("brackets make an array") };
        let args: Vec<_> = args.iter().map(Cow::Borrowed).collect();
        state.next(&args, when).map_or_else(|error| format!("({error})"), |answer| shown(&answer))
    };
    rows.iter().map(answer).collect::<Vec<_>>().join(" ")
}

#[test]
fn answers_row_by_row() {
    use Analytic::*;
    for (analytic, rows, expected) in [
        (Lag, &["1", "2", "3"][..], "- 1 2"),
        (Lag, &["1", "null", "3", "4"], "- 1 1 3"),
        (Lag, &["1, 2, -1", "2, 2, -1", "3, 2, -1", "4, 2, -1"], "-1 -1 1 2"),
        (Lag, &["1, 1, 9, false", "null, 1, 9, false", "3, 1, 9, false", "4, 1, 9, false"], "9 1 - 3"),
        (Lag, &["!1", "3", "!2", "4", "5"], "- - 3 3 4"),
        (Lag, &["7, 0", "8, 0"], "7 8"),
        // The first row's default holds for all rows before it.
        (Lag, &["1, 2, 5", "2, 2, 6", "3, 2, 7"], "5 5 1"),
        (Latest, &["1", "null", "null", "4"], "1 1 1 4"),
        (Latest, &["null, 0", "7, 0", "null, 0"], "0 7 7"),
        (Latest, &["!5", "20", "!7", "30"], "- 20 20 30"),
        (ChangedCol, &["true, 1", "true, null", "true, 1", "true, 2"], "1 - - 2"),
        (ChangedCol, &["false, 1", "false, null", "false, 1"], "1 - 1"),
        (ChangedCol, &["true, false", "true, true", "true, true", "true, false"], "false true - false"),
        (ChangedCol, &["!true, 1", "true, 2", "true, 2", "!true, 1", "true, 3"], "- 2 - - 3"),
        (HadChanged, &["true, 1, 1", "true, 1, 1", "true, 1, 2", "true, null, 2"], "true false true false"),
        (HadChanged, &["false, 1", "false, null", "false, null", "false, 1"], "true true false true"),
        (HadChanged, &["true, 1", "true, 1.0", "true, \"1\""], "true false true"),
        (HadChanged, &["true, null", "true, 1", "true, 1", "true, 2"], "false true false true"),
        (HadChanged, &["!true, 1", "true, 2", "true, 2", "!true, 1", "true, 3"], "false true false false true"),
        (HadChanged, &["true, {\"x\": [1, 2]}", "true, {\"x\": [1.0, 2]}", "true, {\"x\": [1, 3]}"], "true false true"),
        (AccSum, &["1", "2", "3.5", "null"], "1 3 6.5 6.5"),
        (AccSum, &["null", "1"], "0 1"),
        (AccSum, &["1", "!-5", "4"], "1 1 5"),
        (AccSum, &["9223372036854775807", "1", "-1"], "9223372036854775807 9223372036854776000 9223372036854775807"),
        (AccAvg, &["1", "2", "6"], "1 1.5 3"),
        (AccAvg, &["3", "null", "2"], "3 3 2.5"),
        (AccAvg, &["null"], "-"),
        (AccAvg, &["!7", "3", "!9"], "0 3 3"),
        (AccMax, &["3", "1", "null", "5", "2"], "3 3 3 5 5"),
        (AccMin, &["3", "null", "2.5", "9"], "3 3 2.5 2.5"),
        (AccCount, &["!1", "2", "3", "!0", "null"], "0 1 2 2 2"),
        (AccCount, &["{\"a\": 1}", "{\"a\": null}", "{}"], "1 2 3"),
        (
            AccSum,
            &[
                "1, false, false",
                "3, true, false",
                "2, false, false",
                "-1, false, true",
                "2, false, false",
                "4, true, false",
                "1, false, false",
                "!9, true, true",
                "1, null, null",
            ],
            "0 3 5 4 0 4 5 5 6",
        ),
        (AccCount, &["1, false, false", "2, true, false", "-1, false, true", "1, false, false"], "0 1 2 0"),
        (AccAvg, &["2, true, false", "4, true, false", "-3, false, true", "3, true, false"], "2 3 1 3"),
        (AccMin, &["2, true, true", "4, true, false", "5, false, false", "3, false, true"], "2 4 4 3"),
        (AccMax, &["null, true, false", "7, false, false"], "- 7"),
    ] {
        assert_eq!(answers(&mut AnalyticState::new(analytic), rows), expected, "{analytic} {rows:?}");
    }
}

#[test]
fn a_row_that_fails_changes_nothing() {
    use Analytic::*;
    for (analytic, rows, expected) in [
        (
            AccSum,
            &["1", "\"x\"", "2"][..],
            "1 (call func acc_sum error: expect number for parameter 1 but found string) 3",
        ),
        (
            AccMax,
            &["1, true, false", "true, false, true", "2, false, false"],
            "1 (call func acc_max error: expect number for parameter 1 but found boolean) 2",
        ),
        (
            AccCount,
            &["1, true, 5", "1, false, false"],
            "(call func acc_count error: expect boolean for parameter 3 but found bigint) 0",
        ),
        // Values that do not count are not evaluated.
        (AccSum, &["\"x\", false, false", "!\"x\"", "1, true, false"], "0 0 1"),
        (
            Lag,
            &["1", "2, -1", "3, 1000000", "4"],
            "- (call func lag error: expect whole number from 0 to 100000 for parameter 2 but found bigint) (call \
             func lag error: expect whole number from 0 to 100000 for parameter 2 but found bigint) 1",
        ),
        (
            HadChanged,
            &["true, 1", "1, 2", "true, 1"],
            "true (call func had_changed error: expect boolean for parameter 1 but found bigint) false",
        ),
    ] {
        assert_eq!(answers(&mut AnalyticState::new(analytic), rows), expected, "{analytic} {rows:?}");
    }
}

#[test]
fn whole_rows() {
    let rows = ["true, {\"a\": 1, \"b\": \"x\"}", "true, {\"b\": \"x\", \"a\": 1}", "true, {\"a\": 1, \"b\": \"y\"}"];
    for mut state in [AnalyticState::new(Analytic::HadChanged), AnalyticState::over_rows(Analytic::HadChanged)] {
        assert_eq!(answers(&mut state, &rows), "true false true");
    }
    let mut state = AnalyticState::over_rows(Analytic::HadChanged);
    let rows = ["true, {\"a\": 1}", "true, {\"b\": 2}", "true, {\"a\": 1, \"b\": null}", "true, {\"b\": 3}"];
    assert_eq!(answers(&mut state, &rows), "true true false true");
    let mut state = AnalyticState::over_rows(Analytic::HadChanged);
    assert_eq!(answers(&mut state, &["false, {\"a\": 1}", "false, {}", "false, {}"]), "true true false");
}

#[test]
fn columns_that_changed() {
    for (ignore_null, rows, expected) in [
        (true, &["{\"a\": 1, \"b\": 1}", "{\"a\": 1, \"b\": 2}", "{\"a\": 2, \"b\": 2}"][..], "a=1,b=1 b=2 a=2"),
        (true, &["{\"a\": null, \"b\": 1}", "{\"a\": 1}", "{\"a\": null, \"b\": 1}", "{\"a\": 1}"], "b=1 a=1  "),
        (false, &["{\"a\": null}", "{\"a\": 1}", "{\"a\": null}", "{\"a\": 1}"], " a=1 a=- a=1"),
        (false, &["{\"b\": 1, \"a\": [1]}", "{\"b\": 1.0, \"a\": [1]}", "{\"b\": 1, \"a\": [2]}"], "b=1,a=[1]  a=[2]"),
    ] {
        let mut state = AnalyticState::new(Analytic::ChangedCols);
        let mut shown_rows = Vec::new();
        for row in rows {
            let Value::Object(members) = value(row) else { panic!("{row} is no object") };
            let columns: Vec<_> = members.iter().map(|(name, value)| (name.clone(), Cow::Borrowed(value))).collect();
            let changed = state.next_columns(ignore_null, &columns);
            let changed: Vec<_> = changed.iter().map(|(name, value)| format!("{name}={}", shown(value))).collect();
            shown_rows.push(changed.join(","));
        }
        assert_eq!(shown_rows.join(" "), expected, "{ignore_null} {rows:?}");
    }
}

#[test]
fn new_keys_do_not_fill_the_memory() {
    let mut state = AnalyticState::new(Analytic::ChangedCols);
    for at in 0..2 * MAX_COLUMNS {
        let columns = [(number(at), Cow::Owned(Value::Int(1)))];
        assert_eq!(state.next_columns(true, &columns).len(), 1);
    }
    let Memory::Columns(known) = &state.memory else { panic!("columns are remembered") };
    assert_eq!(known.len(), MAX_COLUMNS);
    assert!(state.next_columns(true, &[(number(0), Cow::Owned(Value::Int(1)))]).is_empty());
}

const ALL: [Analytic; 10] = [
    Analytic::Lag,
    Analytic::Latest,
    Analytic::ChangedCol,
    Analytic::HadChanged,
    Analytic::ChangedCols,
    Analytic::AccSum,
    Analytic::AccCount,
    Analytic::AccAvg,
    Analytic::AccMax,
    Analytic::AccMin,
];

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Absent),
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        (-2_i64..4).prop_map(Value::Int),
        any::<u64>().prop_map(|bits| Value::Float(f64::from_bits(bits))),
        "[a-c]{0,2}".prop_map(Value::from),
        prop::collection::vec(any::<u8>(), 0..3).prop_map(Value::from),
        prop::sample::select(vec!["[1, {}]", "{\"a\": [null]}", "{}"]).prop_map(|text| Value::Json(text.into())),
    ];
    leaf.prop_recursive(2, 6, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::array),
            prop::collection::vec(("[a-c]", inner), 0..3)
                .prop_map(|members| Value::object(members.into_iter().map(|(key, value)| (key.into(), value)))),
        ]
    })
}

fn rows() -> impl Strategy<Value = Vec<(Vec<Value>, bool)>> {
    prop::collection::vec((prop::collection::vec(any_value(), 0..5), any::<bool>()), 0..12)
}

proptest! {
    #[test]
    fn no_row_makes_it_panic(rows in rows()) {
        let states = ALL.map(AnalyticState::new).into_iter();
        for mut state in states.chain(ALL.map(AnalyticState::over_rows)) {
            for (args, when) in &rows {
                let args: Vec<_> = args.iter().map(Cow::Borrowed).collect();
                let _ = state.next(&args, *when);
                let columns: Vec<_> = args.iter().enumerate().map(|(at, arg)| (number(at % 3), arg.clone())).collect();
                let _ = state.next_columns(*when, &columns);
            }
        }
    }

    /// A copy of a state, such as a restored one, continues like the original.
    #[test]
    fn a_copy_continues_like_the_original(rows in rows(), cut in 0..12_usize) {
        let (before, after) = rows.split_at(cut.min(rows.len()));
        let next = |state: &mut AnalyticState, (args, when): &(Vec<Value>, bool)| {
            let args: Vec<_> = args.iter().map(Cow::Borrowed).collect();
            format!("{:?}", state.next(&args, *when))
        };
        for mut state in ALL.map(AnalyticState::new) {
            before.iter().for_each(|row| drop(next(&mut state, row)));
            let mut copy = state.clone();
            for row in after {
                prop_assert_eq!(next(&mut state, row), next(&mut copy, row));
            }
        }
    }

    #[test]
    fn lag_looks_back(values in prop::collection::vec(any::<i64>(), 0..40), offset in 0..6_usize) {
        let mut state = AnalyticState::new(Analytic::Lag);
        for (at, value) in values.iter().enumerate() {
            let args = [Cow::Owned(Value::Int(*value)), Cow::Owned(Value::Int(offset as i64))];
            let expected = at.checked_sub(offset).map_or("-".to_owned(), |at| values[at].to_string());
            prop_assert_eq!(state.next(&args, true).map(|answer| shown(&answer)), Ok(expected));
        }
        let Memory::History(history) = &state.memory else { panic!("lag remembers rows") };
        prop_assert!(history.len() <= offset);
    }
}
