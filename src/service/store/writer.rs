//! The writing thread: puts all waiting changes into one transaction, and keeps what a full disk prevents.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;

use super::file::{CommitError, OpenFile};
use super::{Change, Group, StoreError};

/// The most groups of changes in one transaction.
const GROUPS: usize = 4096;

/// How long unwritten urgent changes wait for the next try.
const PAUSE: Duration = Duration::from_secs(1);

/// Writes until all senders are gone.
pub(super) fn run(file: &OpenFile, mut waiting: mpsc::Receiver<Group>) {
    // Urgent changes that have taken effect but are not on disk yet, in order.
    let mut owed: Vec<Change> = Vec::new();
    loop {
        let first = match owed.is_empty() {
            true => match waiting.blocking_recv() {
                Some(group) => group,
                None => return,
            },
            false => match waiting.try_recv() {
                Ok(group) => group,
                Err(TryRecvError::Disconnected) => return settle(file, &mut owed),
                Err(TryRecvError::Empty) => {
                    std::thread::sleep(PAUSE);
                    settle(file, &mut owed);
                    continue;
                }
            },
        };
        let mut groups = vec![first];
        while groups.len() < GROUPS
            && let Ok(group) = waiting.try_recv()
        {
            groups.push(group);
        }
        write(file, groups, &mut owed);
    }
}

/// Tries to write the urgent changes that are still missing on disk.
fn settle(file: &OpenFile, owed: &mut Vec<Change>) {
    if file.commit(owed.iter()).is_ok() {
        tracing::warn!("the disk has room again: {} waiting changes are written", owed.len());
        owed.clear();
    }
}

fn write(file: &OpenFile, groups: Vec<Group>, owed: &mut Vec<Change>) {
    let all = owed.iter().chain(groups.iter().flat_map(|group| &group.changes));
    let error = match file.commit(all) {
        Ok(()) => {
            owed.clear();
            file.reserve();
            for group in groups {
                let _ = group.answer.send(Ok(()));
            }
            return;
        }
        Err(error) => error,
    };
    tracing::error!("cannot write to the store: {error}");
    let full = matches!(error, CommitError::Full(_));
    for group in groups {
        let urgent = full && group.changes.iter().all(|change| change.urgent);
        let written = match urgent {
            true => write_urgent(file, group.changes, owed),
            false => Err(match &error {
                CommitError::Damaged(damage) => StoreError::ReadOnly(damage.clone()),
                error => StoreError::Write(error.to_string()),
            }),
        };
        let _ = group.answer.send(written);
    }
}

/// Writes urgent changes, in the reserved space if necessary. If that fails they are written later, because they take
/// effect in any case: a rule that is stopped stays stopped.
fn write_urgent(file: &OpenFile, changes: Vec<Change>, owed: &mut Vec<Change>) -> Result<(), StoreError> {
    file.give_reserve_up();
    owed.extend(changes);
    match file.commit(owed.iter()) {
        Ok(()) => owed.clear(),
        Err(error) => tracing::error!(
            "the disk is full: {} changes are made and not written; they are lost if the process ends before there is \
             room ({error})",
            owed.len()
        ),
    }
    Ok(())
}
