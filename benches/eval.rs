//! The cost of one evaluation of an expression, one row of an aggregate and one look-up of a group.
//!
//! `cargo bench --bench eval`

use std::collections::HashMap;
use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use plutino::expr::aggregate::{Accumulator, Aggregate};
use plutino::expr::function::{self, CallContext};
use plutino::expr::group::GroupKey;
use plutino::expr::{Expr, Scope};
use plutino::sql::ast::BinaryOp;
use plutino::value::Value;

fn binary(op: BinaryOp, left: Expr, right: Expr) -> Expr {
    Expr::Binary { op, left: Box::new(left), right: Box::new(right), integral: false }
}

fn int(i: i64) -> Expr {
    Expr::Constant(Value::Int(i))
}

fn evaluations(c: &mut Criterion) {
    let zone = jiff::tz::TimeZone::UTC;
    let context = CallContext {
        rule: "bench",
        rule_started: 0,
        now: 0,
        event_time: 0,
        window: None,
        zone: &zone,
        hits: Default::default(),
        pause: None,
    };
    let slots = [Value::Int(61), Value::Float(10.5), Value::from("AAPL")];
    let scope = Scope { slots: &slots, context: &context };

    let greater = binary(BinaryOp::Greater, Expr::Slot(0), int(50));
    c.bench_function("test a > 50", |b| b.iter(|| black_box(&greater).test(black_box(&scope))));

    let both = binary(
        BinaryOp::And,
        binary(BinaryOp::Greater, Expr::Slot(0), int(50)),
        binary(BinaryOp::Equal, Expr::Slot(2), Expr::Constant(Value::from("AAPL"))),
    );
    c.bench_function("test a > 50 AND s = text", |b| b.iter(|| black_box(&both).test(black_box(&scope))));

    let sum = binary(BinaryOp::Multiply, Expr::Slot(1), int(2));
    let sum = binary(BinaryOp::Subtract, binary(BinaryOp::Add, Expr::Slot(0), sum), int(1));
    c.bench_function("eval a + f * 2 - 1", |b| b.iter(|| black_box(&sum).eval(black_box(&scope)).is_ok()));

    if let Some(function) = function::lookup("lower") {
        let call = Expr::Call { function, prepared: None, args: vec![Expr::Slot(2)] };
        c.bench_function("eval lower(s)", |b| b.iter(|| black_box(&call).eval(black_box(&scope)).is_ok()));
    }

    let mut total = Accumulator::new(Aggregate::Sum, false);
    c.bench_function("sum of a double", |b| b.iter(|| total.add(Some(black_box(&slots[1]))).is_ok()));
    let mut total = Accumulator::new(Aggregate::Sum, false);
    c.bench_function("sum of a whole number", |b| b.iter(|| total.add(Some(black_box(&slots[0]))).is_ok()));
    let mut least = Accumulator::new(Aggregate::Min, false);
    c.bench_function("min of a double", |b| b.iter(|| least.add(Some(black_box(&slots[1]))).is_ok()));

    let groups = HashMap::from([(GroupKey::from_values([&slots[2]]), 1)]);
    let mut key = GroupKey::default();
    c.bench_function("group of a short text, SipHash", |b| {
        b.iter(|| {
            key.refill([black_box(&slots[2])]);
            groups.contains_key(&key)
        });
    });
}

criterion_group!(benches, evaluations);
criterion_main!(benches);
