//! Why a row or group is lost, and for which operator that is counted.

use std::cell::RefCell;
use std::rc::Rc;

use crate::dataflow::output::Output;
use crate::dataflow::project::RowError;
use crate::expr::EvalError;
use crate::metrics::Place;

/// Why a row or a group was lost.
#[derive(Debug, thiserror::Error)]
pub enum ResultError {
    #[error("run Where error: {0}")]
    Where(EvalError),
    #[error("run Having error: {0}")]
    Having(EvalError),
    #[error("run Order By error: {0}")]
    Order(EvalError),
    #[error("run Select error: {0}")]
    Aggregate(EvalError),
    #[error("run Select error: {0}")]
    Analytic(EvalError),
    #[error("run Select error: {0}")]
    Eval(#[from] EvalError),
    /// a row that cannot be encoded
    #[error(transparent)]
    Row(#[from] RowError),
}

impl ResultError {
    /// The operator in which it happened.
    pub(super) fn place(&self) -> Place {
        match self {
            ResultError::Where(_) => Place::Filter,
            ResultError::Aggregate(_) => Place::Aggregate,
            ResultError::Analytic(_) => Place::Analytic,
            ResultError::Having(_) => Place::Having,
            ResultError::Order(_) => Place::Order,
            ResultError::Eval(_) => Place::Project,
            ResultError::Row(error) => error.place(),
        }
    }
}

/// Reports the errors of lost rows.
pub(super) fn reporter(
    output: &Rc<RefCell<Output>>,
    place: Place,
    operator: &'static str,
) -> impl FnMut(EvalError) + use<> {
    let output = output.clone();
    move |error| output.borrow_mut().error(place, format_args!("run {operator} error: {error}"))
}
