//! Random trees and texts: parsing inverts printing, and no text makes the parser panic.

use crate::time::Unit;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::sql::ast::*;

fn ident() -> impl Strategy<Value = Ident> {
    prop_oneof![
        "[a-zA-Z_][a-zA-Z0-9_]{0,6}"
            .prop_filter("windows are no names here", |n| !n.to_lowercase().ends_with("window")),
        "[^`]{0,6}",
        proptest::sample::select(&token::RESERVED[..]).prop_map(str::to_owned),
    ]
    .prop_map(|name| Ident { name: Text::from(name), span: Span::default() })
}

fn literal() -> impl Strategy<Value = Literal> {
    prop_oneof![
        any::<i64>().prop_map(Literal::Int),
        prop::num::f64::NORMAL.prop_map(Literal::Float),
        prop::num::f64::SUBNORMAL.prop_map(Literal::Float),
        any::<String>().prop_map(|text| Literal::Text(text.into())),
        any::<bool>().prop_map(Literal::Bool),
    ]
}

fn whole_row(stream: Option<Ident>) -> Star {
    Star { stream, except: Vec::new(), replace: Vec::new(), span: Span::default() }
}

fn at(kind: ExprKind) -> Expr {
    Expr { kind, span: Span::default() }
}

fn expr() -> impl Strategy<Value = Expr> {
    let leaf = prop_oneof![
        Just(ExprKind::Null),
        literal().prop_map(ExprKind::Literal),
        ident().prop_map(|i| ExprKind::Column(i.name))
    ]
    .prop_map(at);
    leaf.prop_recursive(5, 40, 4, |inner| {
        let one = inner.clone().prop_map(Box::new).boxed();
        let maybe = option::of(one.clone());
        let many = vec(inner.clone(), 1..3);
        let whole = option::of(ident()).prop_map(|stream| at(ExprKind::Star(Box::new(whole_row(stream)))));
        let star = prop_oneof![9 => inner.clone(), 1 => whole];
        let call = (ident(), vec(star, 0..3), any::<bool>(), option::of(over(inner.clone()))).prop_map(
            |(name, args, distinct, over)| {
                let distinct = distinct && !args.is_empty();
                ExprKind::Call(Call { name, args, distinct, filter: None, over })
            },
        );
        let infix = {
            use BinaryOp::*;
            proptest::sample::select(vec![
                Multiply,
                Divide,
                Modulo,
                BitAnd,
                Add,
                Subtract,
                BitOr,
                BitXor,
                Equal,
                NotEqual,
                Less,
                LessEqual,
                Greater,
                GreaterEqual,
                And,
                Or,
            ])
        };
        let set = prop_oneof![
            many.clone().prop_map(InSet::List),
            one.clone()
                .prop_filter("an array that begins with a parenthesis has no text", |e| {
                    // The printer decides about parentheses around a right operand, so the operand is printed to find
                    // out.
                    let printed = at(ExprKind::In { expr: e.clone(), negated: false, set: InSet::Array(e.clone()) });
                    !printed.to_string().contains(" IN (")
                })
                .prop_map(InSet::Array),
        ];
        let prefix = proptest::sample::select(vec![UnaryOp::Minus, UnaryOp::Plus, UnaryOp::Not]);
        let not = any::<bool>();
        prop_oneof![
            (one.clone(), ident()).prop_map(|(e, n)| ExprKind::Dot(e, n)),
            (one.clone(), ident()).prop_map(|(e, n)| ExprKind::Member(e, n)),
            (one.clone(), one.clone()).prop_map(|(e, i)| ExprKind::Index(e, i)),
            (one.clone(), maybe.clone(), maybe.clone()).prop_map(|(e, i, j)| ExprKind::Slice(e, i, j)),
            (prefix, one.clone()).prop_map(|(op, e)| ExprKind::Unary(op, e)),
            (infix, one.clone(), one.clone()).prop_map(|(op, l, r)| ExprKind::Binary(op, l, r)),
            (one.clone(), not, one.clone(), one.clone()).prop_map(|(expr, negated, low, high)| ExprKind::Between {
                expr,
                negated,
                low,
                high
            }),
            (one.clone(), not, set).prop_map(|(expr, negated, set)| ExprKind::In { expr, negated, set }),
            (one.clone(), not, one.clone()).prop_map(|(expr, negated, pattern)| ExprKind::Like {
                expr,
                negated,
                pattern
            }),
            (one.clone(), not).prop_map(|(expr, negated)| ExprKind::IsNull { expr, negated }),
            (maybe.clone(), vec((inner.clone(), inner), 1..3), maybe)
                .prop_map(|(value, branches, otherwise)| ExprKind::Case { value, branches, otherwise }),
            call,
        ]
        .prop_map(at)
    })
}

fn order_key(expr: impl Strategy<Value = Expr>) -> impl Strategy<Value = OrderKey> {
    (expr, any::<bool>()).prop_map(|(expr, descending)| OrderKey { expr, descending })
}

fn over(expr: impl Strategy<Value = Expr> + Clone + 'static) -> impl Strategy<Value = Over> {
    (vec(expr.clone(), 0..3), vec(order_key(expr.clone()), 0..2), option::of(expr.prop_map(Box::new)))
        .prop_map(|(partition_by, order_by, when)| Over { partition_by, order_by, when })
        .prop_filter("an empty OVER is refused", |o| {
            !o.partition_by.is_empty() || !o.order_by.is_empty() || o.when.is_some()
        })
}

fn window() -> impl Strategy<Value = Window> {
    let unit =
        proptest::sample::select(vec![Unit::Day, Unit::Hour, Unit::Minute, Unit::Second, Unit::Millisecond]).boxed();
    let n = 1..1_000_000u64;
    let kind = prop_oneof![
        (unit.clone(), n.clone()).prop_map(|(unit, length)| WindowKind::Tumbling { unit, length }),
        (unit.clone(), n.clone(), n.clone()).prop_map(|(unit, length, hop)| WindowKind::Hopping { unit, length, hop }),
        (unit.clone(), n.clone(), 0..9u64).prop_map(|(unit, length, delay)| WindowKind::Sliding {
            unit,
            length,
            delay
        }),
        (unit, n.clone(), n.clone()).prop_map(|(unit, max, timeout)| WindowKind::Session { unit, max, timeout }),
        (n, 0..9u64).prop_map(|(interval, more)| WindowKind::Count { length: interval + more, interval }),
        (expr(), option::of(expr())).prop_map(|(b, e)| WindowKind::State { begin: Box::new(b), end: e.map(Box::new) }),
    ];
    (kind, option::of(expr()), option::of(over(expr().boxed()))).prop_map(|(kind, filter, over)| Window {
        kind,
        filter,
        over,
        span: Span::default(),
    })
}

fn field() -> impl Strategy<Value = Field> {
    let star = (option::of(ident()), vec(ident(), 0..3), vec((expr(), ident()), 0..2))
        .prop_map(|(stream, except, replace)| Field::Star(Star { stream, except, replace, span: Span::default() }));
    let plain = (expr(), option::of(ident()), any::<bool>()).prop_map(|(expr, alias, invisible)| Field::Expr {
        expr,
        alias,
        invisible,
    });
    prop_oneof![1 => star, 3 => plain]
}

fn select() -> impl Strategy<Value = Select> {
    let source = (ident(), option::of(ident())).prop_map(|(name, alias)| Source { name, alias }).boxed();
    let kinds = [JoinKind::Inner, JoinKind::Left, JoinKind::Right, JoinKind::Full, JoinKind::Cross];
    let join = (proptest::sample::select(kinds.to_vec()), source.clone(), expr()).prop_map(|(kind, source, on)| Join {
        kind,
        source,
        on: (kind != JoinKind::Cross).then_some(on),
    });
    (
        vec(field(), 1..4),
        source,
        vec(join, 0..2),
        option::of(expr()),
        vec(expr(), 0..2),
        option::of(window()),
        option::of(expr()),
        vec(order_key(expr()), 0..2),
        option::of(0..u64::MAX / 2),
    )
        .prop_map(|(fields, from, joins, filter, group_by, window, having, order_by, limit)| Select {
            fields,
            from,
            joins,
            filter,
            group_by,
            window,
            having,
            order_by,
            limit,
        })
}

fn columns() -> impl Strategy<Value = Vec<ColumnDef>> {
    let simple = vec![
        DataType::BigInt,
        DataType::Float,
        DataType::String,
        DataType::DateTime,
        DataType::Boolean,
        DataType::Bytea,
    ];
    let ty = proptest::sample::select(simple).prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|t| DataType::Array(Box::new(t))),
            table_of(1, inner.boxed()).prop_map(DataType::Struct)
        ]
    });
    table_of(0, ty.boxed())
}

fn table_of(least: usize, ty: BoxedStrategy<DataType>) -> impl Strategy<Value = Vec<ColumnDef>> {
    let column = (ident(), ty, option::of(literal())).prop_map(|(name, ty, default)| ColumnDef { name, ty, default });
    vec(column, least..4).prop_map(|mut columns| {
        let mut seen = std::collections::HashSet::new();
        columns.retain(|c| seen.insert(c.name.name.clone()));
        columns
    })
}

fn statement() -> impl Strategy<Value = Statement> {
    let relation = proptest::sample::select(vec![Relation::Stream, Relation::Table]).boxed();
    let options = vec((proptest::sample::select(vec!["DATASOURCE", "TYPE", "EXTRA"]), any::<String>()), 0..4);
    let create =
        (relation.clone(), "[a-zA-Z0-9_-]{1,8}", columns(), options).prop_map(|(relation, name, columns, options)| {
            let option = |(name, value): (_, String)| StreamOption { name, value: value.into(), span: Span::default() };
            Statement::Create(CreateStream {
                relation,
                name: Ident { name: name.into(), span: Span::default() },
                columns,
                options: options.into_iter().map(option).collect(),
            })
        });
    prop_oneof![
        4 => select().prop_map(|s| Statement::Select(Box::new(s))),
        2 => create,
        1 => relation.clone().prop_map(Statement::Show),
        1 => (relation, ident()).prop_map(|(r, n)| Statement::Describe(r, n)),
    ]
}

/// Parses a text twice: both times it must give the same tree or an error.
fn reads(text: &str) {
    if let Ok(tree) = parse_statement(text) {
        let printed = tree.to_string();
        assert_eq!(parse_statement(&printed), Ok(tree), "{printed}");
    }
    for error in
        [parse_statement(text).err(), parse_select(text).err(), parse_create(text).err(), parse_expr(text).err()]
            .into_iter()
            .flatten()
    {
        let _ = (error.to_string(), error.hint(), crate::text::span::mark(text, error.span()));
    }
}

proptest! {
    #[test]
    fn printing_is_the_inverse_of_reading(tree in statement()) {
        let printed = tree.to_string();
        match parse_statement(&printed) {
            Ok(read) => prop_assert_eq!(read, tree, "{}", printed),
            Err(error) => {
                let place = crate::text::span::mark(&printed, error.span());
                prop_assert!(false, "{}\n{}", error, place);
            }
        }
    }

    #[test]
    fn no_text_makes_it_panic(text in any::<String>()) {
        reads(&text);
    }

    #[test]
    fn no_changed_statement_makes_it_panic(tree in statement(), changes in vec((any::<prop::sample::Index>(), ".{0,2}"), 1..4)) {
        let mut text = tree.to_string();
        for (place, new) in changes {
            let places: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
            let first = place.index(places.len());
            let (start, end) = (places[first], places[(first + new.len() % 3).min(places.len() - 1)]);
            text.replace_range(start..end, &new);
        }
        reads(&text);
    }
}
