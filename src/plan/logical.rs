//! The logical plan: what a rule means, with names resolved, before it is decided where each part is computed.
//!
//! Expressions read slots here too, but the numbers are provisional: columns count from 0, shared aliases from
//! [`ALIASES`], aggregates from [`AGGREGATES`]. `rewrite` gives the final ones.

use std::sync::Arc;

use super::physical::{AggregateCall, Column, EventTime, WindowSpec};
use crate::catalog::StreamDef;
use crate::expr::Expr;
use crate::value::Text;

/// The first provisional slot of aliases. A statement has less bytes than this, so no column reaches it.
pub const ALIASES: usize = 1 << 20;
/// The first provisional slot of aggregates.
pub const AGGREGATES: usize = 1 << 21;

/// A rule with its names resolved.
#[derive(Clone, Debug)]
pub struct Logical {
    /// the stream it reads
    pub stream: Arc<StreamDef>,
    /// the columns that are read somewhere
    pub columns: Vec<Column>,
    /// the aliases, each after those that it needs
    pub aliases: Vec<Alias>,
    /// the select list
    pub fields: Vec<Output>,
    /// WHERE
    pub filter: Option<Expr>,
    /// the window
    pub window: Option<WindowSpec>,
    /// FILTER (WHERE …) of the window
    pub admit: Option<Expr>,
    /// keys of GROUP BY
    pub keys: Vec<Expr>,
    /// the aggregate calls
    pub aggregates: Vec<AggregateCall>,
    /// whether there is one result row for each group
    pub grouped: bool,
    /// HAVING
    pub having: Option<Expr>,
    /// LIMIT
    pub limit: Option<u64>,
    /// event time
    pub event_time: Option<EventTime>,
}

/// An alias.
#[derive(Clone, Debug)]
pub struct Alias {
    /// its name
    pub name: Text,
    /// its value
    pub expr: Expr,
    /// whether others read its slot
    pub shared: bool,
}

/// One item of the select list.
#[derive(Clone, Debug)]
pub enum Output {
    /// all members of the message, without some
    Star {
        /// where the message is
        slot: usize,
        /// keys that are left out
        except: Vec<Text>,
    },
    /// a member
    Field {
        /// its key
        name: Text,
        /// its value
        value: OutputValue,
        /// passed through by its name
        plain: bool,
    },
    /// computed and not sent
    Hidden(OutputValue),
}

/// Where the value of an item comes from.
#[derive(Clone, Debug)]
pub enum OutputValue {
    /// the alias with this index
    Alias(usize),
    /// an expression of its own
    Expr(Expr),
}
