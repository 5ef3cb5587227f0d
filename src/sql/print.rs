//! Tree to text: the inverse of the parser.
//!
//! Parentheses and backticks are printed only where they are needed; keywords are in capitals. Two trees cannot be
//! printed faithfully, and the parser never makes them: a name with a backtick in it, and `IN` an array whose text
//! begins with a parenthesis.

use std::fmt::{self, Display, Formatter, Write};

use super::ast::*;
use super::token::is_plain_name;

/// The binding strength of operators. An operand that binds looser than its operator needs parentheses.
pub(super) const NOT: u8 = 3;
/// comparisons, IN, BETWEEN, LIKE, IS NULL
pub(super) const COMPARISON: u8 = 4;
/// `+ - | ^`
pub(super) const ADDITIVE: u8 = 5;
/// `-` and `+` before an expression
pub(super) const PREFIX: u8 = 7;
/// access, and everything else that needs no parentheses
const TIGHTEST: u8 = 8;

/// The rank of an infix operator.
pub(super) fn rank(op: BinaryOp) -> u8 {
    match op {
        BinaryOp::Or => 1,
        BinaryOp::And => 2,
        BinaryOp::Equal
        | BinaryOp::NotEqual
        | BinaryOp::Less
        | BinaryOp::LessEqual
        | BinaryOp::Greater
        | BinaryOp::GreaterEqual => COMPARISON,
        BinaryOp::Add | BinaryOp::Subtract | BinaryOp::BitOr | BinaryOp::BitXor => ADDITIVE,
        BinaryOp::Multiply | BinaryOp::Divide | BinaryOp::Modulo | BinaryOp::BitAnd => 6,
    }
}

fn expr_rank(expr: &Expr) -> u8 {
    match &expr.kind {
        ExprKind::Binary(op, ..) => rank(*op),
        ExprKind::Unary(UnaryOp::Not, _) => NOT,
        ExprKind::Unary(..) => PREFIX,
        ExprKind::Between { .. } | ExprKind::In { .. } | ExprKind::Like { .. } | ExprKind::IsNull { .. } => COMPARISON,
        _ => TIGHTEST,
    }
}

impl Display for Statement {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Statement::Create(create) => create.fmt(f),
            Statement::Select(select) => select.fmt(f),
            Statement::Show(relation) => write!(f, "SHOW {relation}S"),
            Statement::Describe(relation, name) => write!(f, "DESCRIBE {relation} {name}"),
            Statement::Drop(relation, name) => write!(f, "DROP {relation} {name}"),
            Statement::Explain(relation, name) => write!(f, "EXPLAIN {relation} {name}"),
            Statement::View(statement) => statement.fmt(f),
        }
    }
}

impl Display for ViewStatement {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            ViewStatement::Create(create) => create.fmt(f),
            ViewStatement::Show => f.write_str("SHOW VIEWS"),
            ViewStatement::Describe(name) => write!(f, "DESCRIBE VIEW {name}"),
            ViewStatement::Drop(name) => write!(f, "DROP VIEW {name}"),
            ViewStatement::Explain(name) => write!(f, "EXPLAIN VIEW {name}"),
        }
    }
}

impl Display for CreateView {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "CREATE VIEW {} ", self.name)?;
        for (i, option) in self.options.iter().enumerate() {
            write!(f, "{}{} = ", if i == 0 { "WITH (" } else { ", " }, option.name)?;
            quoted(f, &option.value)?;
        }
        f.write_str(if self.options.is_empty() { "AS " } else { ") AS " })?;
        self.query.fmt(f)
    }
}

impl Display for Relation {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Relation::Stream => "STREAM",
            Relation::Table => "TABLE",
        })
    }
}

impl Display for Ident {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        name(f, &self.name)
    }
}

fn name(f: &mut Formatter<'_>, name: &str) -> fmt::Result {
    if is_plain_name(name) { f.write_str(name) } else { write!(f, "`{name}`") }
}

impl Display for CreateStream {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "CREATE {} {} (", self.relation, self.name)?;
        list(f, &self.columns)?;
        f.write_str(") WITH (")?;
        for (i, option) in self.options.iter().enumerate() {
            write!(f, "{}{} = ", if i == 0 { "" } else { ", " }, option.name)?;
            quoted(f, &option.value)?;
        }
        f.write_str(")")
    }
}

impl Display for ColumnDef {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.ty)?;
        match &self.default {
            Some(default) => write!(f, " DEFAULT {default}"),
            None => Ok(()),
        }
    }
}

impl Display for DataType {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            DataType::BigInt => f.write_str("BIGINT"),
            DataType::Float => f.write_str("FLOAT"),
            DataType::String => f.write_str("STRING"),
            DataType::DateTime => f.write_str("DATETIME"),
            DataType::Boolean => f.write_str("BOOLEAN"),
            DataType::Bytea => f.write_str("BYTEA"),
            DataType::Array(element) => write!(f, "ARRAY({element})"),
            DataType::Struct(members) => {
                f.write_str("STRUCT(")?;
                list(f, members)?;
                f.write_str(")")
            }
        }
    }
}

impl Display for Select {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("SELECT ")?;
        list(f, &self.fields)?;
        write!(f, " FROM {}", self.from)?;
        for join in &self.joins {
            write!(f, " {join}")?;
        }
        if let Some(filter) = &self.filter {
            write!(f, " WHERE {filter}")?;
        }
        if !self.group_by.is_empty() || self.window.is_some() {
            f.write_str(" GROUP BY ")?;
            list(f, &self.group_by)?;
            if let Some(window) = &self.window {
                write!(f, "{}{window}", if self.group_by.is_empty() { "" } else { ", " })?;
            }
        }
        if let Some(having) = &self.having {
            write!(f, " HAVING {having}")?;
        }
        if !self.order_by.is_empty() {
            f.write_str(" ORDER BY ")?;
            list(f, &self.order_by)?;
        }
        match self.limit {
            Some(limit) => write!(f, " LIMIT {limit}"),
            None => Ok(()),
        }
    }
}

impl Display for Field {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Field::Star(star) => star.fmt(f),
            Field::Expr { expr, alias, invisible } => {
                expr.fmt(f)?;
                if let Some(alias) = alias {
                    write!(f, " AS {alias}")?;
                }
                f.write_str(if *invisible { " INVISIBLE" } else { "" })
            }
        }
    }
}

impl Display for Star {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if let Some(stream) = &self.stream {
            write!(f, "{stream}.")?;
        }
        f.write_str("*")?;
        if !self.except.is_empty() {
            f.write_str(" EXCEPT(")?;
            list(f, &self.except)?;
            f.write_str(")")?;
        }
        if !self.replace.is_empty() {
            f.write_str(" REPLACE(")?;
            for (i, (expr, name)) in self.replace.iter().enumerate() {
                write!(f, "{}{expr} AS {name}", if i == 0 { "" } else { ", " })?;
            }
            f.write_str(")")?;
        }
        Ok(())
    }
}

impl Display for Source {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.name.fmt(f)?;
        match &self.alias {
            Some(alias) => write!(f, " AS {alias}"),
            None => Ok(()),
        }
    }
}

impl Display for Join {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} JOIN {}", self.kind, self.source)?;
        match &self.on {
            Some(on) => write!(f, " ON {on}"),
            None => Ok(()),
        }
    }
}

impl Display for OrderKey {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.expr, if self.descending { " DESC" } else { "" })
    }
}

impl Display for Window {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)?;
        if let Some(filter) = &self.filter {
            write!(f, " FILTER (WHERE {filter})")?;
        }
        match &self.over {
            Some(over) => write!(f, " {over}"),
            None => Ok(()),
        }
    }
}

impl Display for WindowKind {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            WindowKind::Tumbling { unit, length } => write!(f, "TUMBLINGWINDOW({unit}, {length})"),
            WindowKind::Hopping { unit, length, hop } => write!(f, "HOPPINGWINDOW({unit}, {length}, {hop})"),
            WindowKind::Sliding { unit, length, delay: 0 } => write!(f, "SLIDINGWINDOW({unit}, {length})"),
            WindowKind::Sliding { unit, length, delay } => write!(f, "SLIDINGWINDOW({unit}, {length}, {delay})"),
            WindowKind::Session { unit, max, timeout } => write!(f, "SESSIONWINDOW({unit}, {max}, {timeout})"),
            WindowKind::Count { length, interval } if length == interval => write!(f, "COUNTWINDOW({length})"),
            WindowKind::Count { length, interval } => write!(f, "COUNTWINDOW({length}, {interval})"),
            WindowKind::State { begin, end: None } => write!(f, "STATEWINDOW({begin})"),
            WindowKind::State { begin, end: Some(end) } => write!(f, "STATEWINDOW({begin}, {end})"),
        }
    }
}

impl Display for Over {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("OVER (")?;
        let mut blank = "";
        if !self.partition_by.is_empty() {
            f.write_str("PARTITION BY ")?;
            list(f, &self.partition_by)?;
            blank = " ";
        }
        if !self.order_by.is_empty() {
            write!(f, "{blank}ORDER BY ")?;
            list(f, &self.order_by)?;
            blank = " ";
        }
        if let Some(when) = &self.when {
            write!(f, "{blank}WHEN {when}")?;
        }
        f.write_str(")")
    }
}

impl Display for Literal {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Literal::Int(value) => value.fmt(f),
            Literal::Unsigned(value) => value.fmt(f),
            // The debug form always has a point or an exponent, so it is parsed as a float again.
            Literal::Float(value) => write!(f, "{value:?}"),
            Literal::Text(value) => quoted(f, value),
            Literal::Bool(true) => f.write_str("TRUE"),
            Literal::Bool(false) => f.write_str("FALSE"),
        }
    }
}

impl Display for Expr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.kind {
            ExprKind::Literal(literal) => literal.fmt(f),
            ExprKind::Column(column) => name(f, column),
            ExprKind::Dot(left, member) => {
                // A point after a number would belong to the number.
                let is_number = {
                    use Literal::{Float, Int, Unsigned};
                    matches!(left.kind, ExprKind::Literal(Int(_) | Unsigned(_) | Float(_)))
                };
                inside(f, left, if is_number { TIGHTEST + 1 } else { TIGHTEST })?;
                write!(f, ".{member}")
            }
            ExprKind::Member(left, member) => {
                inside(f, left, TIGHTEST)?;
                write!(f, "->{member}")
            }
            ExprKind::Index(array, index) => {
                inside(f, array, TIGHTEST)?;
                write!(f, "[{index}]")
            }
            ExprKind::Slice(array, from, to) => {
                inside(f, array, TIGHTEST)?;
                f.write_str("[")?;
                if let Some(from) = from {
                    from.fmt(f)?;
                }
                f.write_str(":")?;
                if let Some(to) = to {
                    to.fmt(f)?;
                }
                f.write_str("]")
            }
            ExprKind::Null => f.write_str("NULL"),
            ExprKind::Star(star) => star.fmt(f),
            ExprKind::Unary(op, operand) => unary(f, *op, operand),
            ExprKind::Binary(op, left, right) => {
                inside(f, left, rank(*op))?;
                write!(f, " {op} ")?;
                inside(f, right, rank(*op) + 1)
            }
            ExprKind::Between { expr, negated, low, high } => {
                inside(f, expr, COMPARISON)?;
                write!(f, " {}BETWEEN ", not(*negated))?;
                inside(f, low, ADDITIVE)?;
                f.write_str(" AND ")?;
                inside(f, high, ADDITIVE)
            }
            ExprKind::In { expr, negated, set } => {
                inside(f, expr, COMPARISON)?;
                write!(f, " {}IN ", not(*negated))?;
                match set {
                    InSet::Array(array) => inside(f, array, ADDITIVE),
                    InSet::List(items) => {
                        f.write_str("(")?;
                        list(f, items)?;
                        f.write_str(")")
                    }
                }
            }
            ExprKind::Like { expr, negated, pattern } => {
                inside(f, expr, COMPARISON)?;
                write!(f, " {}LIKE ", not(*negated))?;
                inside(f, pattern, ADDITIVE)
            }
            ExprKind::IsNull { expr, negated } => {
                inside(f, expr, COMPARISON)?;
                write!(f, " IS {}NULL", not(*negated))
            }
            ExprKind::Case { value, branches, otherwise } => {
                f.write_str("CASE")?;
                if let Some(value) = value {
                    write!(f, " {value}")?;
                }
                for (condition, result) in branches {
                    write!(f, " WHEN {condition} THEN {result}")?;
                }
                if let Some(otherwise) = otherwise {
                    write!(f, " ELSE {otherwise}")?;
                }
                f.write_str(" END")
            }
            ExprKind::Call(call) => {
                write!(f, "{}(", call.name)?;
                match call.args.as_slice() {
                    [first, others @ ..] if call.distinct => {
                        // After a name, a sign would be an operator.
                        let text = first.to_string();
                        let signed = text.starts_with(['-', '+']);
                        if signed {
                            write!(f, "DISTINCT ({text})")?
                        } else {
                            write!(f, "DISTINCT {text}")?
                        }
                        others.iter().try_for_each(|arg| write!(f, ", {arg}"))?;
                    }
                    args => list(f, args)?,
                }
                f.write_str(")")?;
                if let Some(filter) = &call.filter {
                    write!(f, " FILTER (WHERE {filter})")?;
                }
                match &call.over {
                    Some(over) => write!(f, " {over}"),
                    None => Ok(()),
                }
            }
        }
    }
}

fn unary(f: &mut Formatter<'_>, op: UnaryOp, operand: &Expr) -> fmt::Result {
    match op {
        UnaryOp::Not => {
            f.write_str("NOT ")?;
            inside(f, operand, NOT)
        }
        UnaryOp::Plus => {
            f.write_str("+")?;
            inside(f, operand, PREFIX)
        }
        UnaryOp::Minus => match first(operand) {
            // A minus directly before a number would belong to the number, and two of them would start a comment.
            First::Number => write!(f, "-({operand})"),
            First::Minus => {
                f.write_str("- ")?;
                inside(f, operand, PREFIX)
            }
            First::Other => {
                f.write_str("-")?;
                inside(f, operand, PREFIX)
            }
        },
    }
}

/// The beginning of the text of a prefix operator's operand.
enum First {
    Number,
    Minus,
    Other,
}

fn first(mut expr: &Expr) -> First {
    loop {
        match &expr.kind {
            ExprKind::Literal(Literal::Int(value)) => return if *value < 0 { First::Minus } else { First::Number },
            ExprKind::Literal(Literal::Unsigned(_)) => return First::Number,
            ExprKind::Literal(Literal::Float(value)) => {
                return if value.is_sign_negative() { First::Minus } else { First::Number };
            }
            ExprKind::Unary(UnaryOp::Minus, _) => return First::Minus,
            ExprKind::Dot(left, _)
            | ExprKind::Member(left, _)
            | ExprKind::Index(left, _)
            | ExprKind::Slice(left, ..)
                if expr_rank(left) == TIGHTEST =>
            {
                expr = left;
            }
            _ => return First::Other,
        }
    }
}

/// Prints an expression, in parentheses if it binds looser than `least`.
fn inside(f: &mut Formatter<'_>, expr: &Expr, least: u8) -> fmt::Result {
    if expr_rank(expr) < least { write!(f, "({expr})") } else { expr.fmt(f) }
}

fn not(negated: bool) -> &'static str {
    if negated { "NOT " } else { "" }
}

fn list(f: &mut Formatter<'_>, items: &[impl Display]) -> fmt::Result {
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            f.write_str(", ")?;
        }
        item.fmt(f)?;
    }
    Ok(())
}

/// Prints a text in double quotes, with the escapes that the lexer resolves.
fn quoted(f: &mut Formatter<'_>, text: &str) -> fmt::Result {
    f.write_char('"')?;
    for c in text.chars() {
        match c {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            c if c.is_control() => write!(f, "\\u{:04x}", u32::from(c))?,
            c => f.write_char(c)?,
        }
    }
    f.write_char('"')
}
