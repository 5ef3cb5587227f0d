//! The protocol of one socket: the client's messages, and replies and frames in order.
//!
//! A session makes a frame only when its socket asks for one, so at most one frame per client waits in the process. Its
//! cursors express everything else that a client lacks.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use slab::Slab;

use super::client::{self, ClientError, ErrorCode, MESSAGE_BYTES, Request, Subscribe};
use super::filter::{Filter, Selection};
use super::frame::{EndReason, Frame};
use super::mailbox::Mailbox;
use super::pull::Pulled;
use super::rate::Rate;
use super::registry::{HEARTBEAT_MS, Views};
use super::store::{Place, ViewCell};
use crate::sync::locked;
use crate::value::Text;

/// The most subscriptions of a socket.
pub const SUBSCRIPTIONS: usize = 1000;

/// The memory that the subscriptions of a socket may take, bytes, estimated.
const SUBSCRIBED: usize = 4 << 20;

/// The most replies that wait; beyond it, no more messages of the client are read.
const ANSWERS: usize = 16;

/// The identity of a client, from its token.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Identity {
    /// the claims of its JWT
    pub claims: Option<Map<String, Json>>,
    /// when the JWT expires, ms since the epoch
    pub expires: Option<i64>,
}

/// Why the socket is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Over {
    /// code of the close frame
    pub code: u16,
    pub reason: &'static str,
}

/// The session of one socket.
pub struct Session {
    views: Arc<Views>,
    mailbox: Arc<Mailbox>,
    identity: Identity,
    expired: bool,
    subscriptions: Slab<Subscription>,
    /// the memory that they take for their parameters, bytes, estimated
    subscribed: usize,
    /// the same for the claims of the token, which all of them share: the most of one of them
    claimed: usize,
    answers: VecDeque<Frame>,
    /// subscriptions that may have something to fetch, without repetition
    ready: VecDeque<u32>,
    heartbeat: bool,
    /// there will be more to send in the next turn
    later: bool,
    over: Option<Over>,
}

struct Subscription {
    id: Option<Box<Json>>,
    /// a client that does not read must not keep the rows of a view that has ended
    view: Weak<ViewCell>,
    place: Place,
    s: u64,
    every: Rate,
    bytes: usize,
}

impl Session {
    /// Starts a session with a greeting. If there are too many clients, it refuses the client and ends.
    pub fn new(views: Arc<Views>, mailbox: Arc<Mailbox>, identity: Identity, now: i64) -> Session {
        let room = views.enter(&mailbox, identity.expires, now);
        let mut session = Session {
            views,
            mailbox,
            identity,
            expired: false,
            subscriptions: Slab::new(),
            subscribed: 0,
            claimed: 0,
            answers: VecDeque::from([Frame::hello(HEARTBEAT_MS as u64)]),
            ready: VecDeque::new(),
            heartbeat: false,
            later: false,
            over: None,
        };
        if !room {
            session.answers.clear();
            session.refuse(None, &ClientError::for_now(ErrorCode::TooManyClients, "too many clients; try again later"));
        }
        session
    }

    pub fn mailbox(&self) -> &Arc<Mailbox> {
        &self.mailbox
    }

    /// Subscribes to the view of the URL.
    pub fn subscribe_url(&mut self, view: &str, query: &str, cursor: Option<String>, now: i64) {
        match client::read_query(view.into(), query) {
            Ok(mut subscribe) => {
                if cursor.is_some() {
                    subscribe.cursor = cursor;
                }
                self.subscribe(subscribe, now);
            }
            Err(error) => self.refuse(None, &error),
        }
    }

    /// Checks the query of a URL without a view.
    pub fn check_query(&mut self, query: &str) {
        let error = match client::read_query(Text::default(), query) {
            Err(error) => Some(error),
            Ok(read) if !read.params.is_empty() || read.cursor.is_some() => {
                let message = "parameters in the URL need a view in its path; here, subscribe by messages";
                Some(ClientError::new(ErrorCode::UnknownParam, message))
            }
            Ok(_) => None,
        };
        if let Some(error) = error {
            self.refuse(None, &error);
        }
    }

    /// Whether the client has a subscription, or an answer is still to be sent.
    pub fn is_subscribed(&self) -> bool {
        !self.subscriptions.is_empty() || !self.answers.is_empty()
    }

    /// Handles a message of the client.
    pub fn receive(&mut self, text: &str, now: i64) {
        if text.len() > MESSAGE_BYTES {
            return self.too_large();
        }
        match client::read(text) {
            Ok(Request::Subscribe(subscribe)) => self.subscribe(subscribe, now),
            Ok(Request::Unsubscribe { id, s }) => self.unsubscribe(id.as_ref(), s, now),
            Err((id, error)) => self.refuse(id.as_ref(), &error),
        }
    }

    /// Handles a binary message.
    pub fn receive_binary(&mut self) {
        self.refuse(
            None,
            &ClientError::new(ErrorCode::BadMessage, "messages are JSON in text frames, not binary ones"),
        );
    }

    /// Handles a message that is too large.
    pub fn too_large(&mut self) {
        let message = format!("a message has at most {MESSAGE_BYTES} bytes");
        self.refuse(None, &ClientError::new(ErrorCode::TooLarge, message));
    }

    /// Whether the next message may be read. If a client reads no replies, its messages are not read either.
    pub fn listens(&self) -> bool {
        self.over.is_none() && self.answers.len() < ANSWERS
    }

    /// The next frame, if any.
    pub fn next(&mut self, now: i64) -> Option<Frame> {
        self.later = false;
        loop {
            if let Some(answer) = self.answers.pop_front() {
                return Some(answer);
            }
            if self.over.is_some() {
                return None;
            }
            let mail = self.mailbox.take();
            self.ready.extend(mail.slots);
            self.heartbeat |= mail.heartbeat;
            if mail.expired {
                self.expire(now);
                continue;
            }
            if std::mem::take(&mut self.heartbeat) {
                return Some(self.progress(now));
            }
            let slot = self.ready.pop_front()?;
            if let Some(frame) = self.pull(slot, now) {
                return Some(frame);
            }
            if self.later {
                return None;
            }
        }
    }

    /// Whether there is more in the next turn, after [`Session::next`] returns nothing: other tasks run in between.
    pub fn takes_turns(&self) -> bool {
        self.later
    }

    /// Why the socket must be closed, after [`Session::next`] returns nothing.
    pub fn over(&self) -> Option<Over> {
        self.over.filter(|_| self.answers.is_empty())
    }

    fn pull(&mut self, slot: u32, now: i64) -> Option<Frame> {
        // The mailbox may still contain a subscription that ended.
        let subscription = self.subscriptions.get(slot as usize)?;
        let Some(view) = subscription.view.upgrade() else { return Some(self.end(slot, EndReason::Dropped, now)) };
        let mut view = locked(&view);
        match view.pull(subscription.place, now) {
            Pulled::Nothing => None,
            Pulled::Later => {
                drop(view);
                self.ready.push_back(slot);
                self.later = true;
                None
            }
            Pulled::Frame(frame) => {
                let lacks = view.lacks(subscription.place);
                drop(view);
                self.ready.extend(lacks.then_some(slot));
                Some(frame)
            }
            Pulled::Resubscribed => {
                let (about, params) = (view.about().clone(), view.params(subscription.place));
                drop(view);
                let Subscription { id, s, every, .. } = subscription;
                let frame = Frame::subscribed(id.as_deref(), *s, &about, &params, *every, false);
                self.ready.push_back(slot);
                Some(frame)
            }
            Pulled::Gone => {
                drop(view);
                Some(self.end(slot, EndReason::Dropped, now))
            }
        }
    }

    fn subscribe(&mut self, request: Subscribe, now: i64) {
        let id = request.id.clone();
        if let Err(error) = self.try_subscribe(request, now) {
            self.refuse(id.as_ref(), &error);
        }
    }

    fn try_subscribe(&mut self, request: Subscribe, now: i64) -> Result<(), ClientError> {
        if self.expired {
            return Err(ClientError::new(ErrorCode::Forbidden, "the token has expired; connect with a new one"));
        }
        if self.subscriptions.len() >= SUBSCRIPTIONS {
            let message = format!("a socket has at most {SUBSCRIPTIONS} subscriptions; open another one");
            return Err(ClientError::new(ErrorCode::TooManySubscriptions, message));
        }
        if self.views.is_short() {
            let message = "memory is short; subscribe later";
            return Err(ClientError::for_now(ErrorCode::TooManySubscriptions, message));
        }
        let Some(cell) = self.views.find(&request.view) else { return Err(self.views.unknown(&request.view)) };
        let every = Rate::rounded(request.every);
        let mut view = locked(&cell);
        if view.is_gone() {
            drop(view);
            return Err(self.views.unknown(&request.view));
        }
        let filter = Filter::resolve(view.about(), &request.params, self.identity.claims.as_ref())?;
        let params = filter.params_json();
        let selection = Selection { filter, every };
        if let Some(s) = view.number(&selection)
            && self.subscriptions.iter().any(|(_, known)| known.s == s)
        {
            let message = format!("this socket has this subscription already: it is number {s}");
            return Err(ClientError::new(ErrorCode::Duplicate, message));
        }
        let bytes = selection.filter.bytes();
        let claimed = selection.filter.claim_bytes().max(self.claimed);
        if self.subscribed + bytes + claimed > SUBSCRIBED {
            let message = format!(
                "the parameters of this socket's subscriptions need more than {SUBSCRIBED} bytes; open another one"
            );
            return Err(ClientError::new(ErrorCode::TooManySubscriptions, message));
        }
        self.subscribed += bytes;
        self.claimed = claimed;
        let entry = self.subscriptions.vacant_entry();
        let slot = entry.key() as u32;
        let joined =
            view.subscribe(selection, request.cursor.as_deref(), &self.mailbox, slot, || self.views.number(), now);
        let about = view.about().clone();
        drop(view);
        let frame = Frame::subscribed(request.id.as_ref(), joined.s, &about, &params, every, joined.resumed);
        entry.insert(Subscription {
            id: request.id.map(Box::new),
            view: Arc::downgrade(&cell),
            place: joined.place,
            s: joined.s,
            every,
            bytes,
        });
        if every.is_limited() {
            self.views.rated(1);
        }
        self.answers.push_back(frame);
        Ok(())
    }

    fn unsubscribe(&mut self, id: Option<&Json>, s: u64, now: i64) {
        match self.subscriptions.iter().find(|(_, known)| known.s == s).map(|(slot, _)| slot as u32) {
            Some(slot) => {
                let frame = self.end(slot, EndReason::Asked, now);
                self.answers.push_back(frame);
            }
            None => {
                let message = format!("this socket has no subscription number {s}");
                self.refuse(id, &ClientError::new(ErrorCode::NotSubscribed, message));
            }
        }
    }

    fn end(&mut self, slot: u32, why: EndReason, now: i64) -> Frame {
        let subscription = self.subscriptions.remove(slot as usize);
        self.ready.retain(|ready| *ready != slot);
        self.subscribed -= subscription.bytes;
        self.leave(&subscription, now);
        Frame::unsubscribed(subscription.s, why)
    }

    fn leave(&self, subscription: &Subscription, now: i64) {
        if let Some(view) = subscription.view.upgrade() {
            locked(&view).unsubscribe(subscription.place, now);
        }
        if subscription.every.is_limited() {
            self.views.rated(-1);
        }
    }

    fn expire(&mut self, now: i64) {
        self.expired = true;
        let slots: Vec<u32> = self.subscriptions.iter().map(|(slot, _)| slot as u32).collect();
        for slot in slots {
            let frame = self.end(slot, EndReason::Expired, now);
            self.answers.push_back(frame);
        }
    }

    fn progress(&self, now: i64) -> Frame {
        let at: Vec<(u64, Text)> = self
            .subscriptions
            .iter()
            .filter_map(|(_, subscription)| locked(&*subscription.view.upgrade()?).progress(subscription.place))
            .collect();
        Frame::progress(now, &at)
    }

    fn refuse(&mut self, id: Option<&Json>, error: &ClientError) {
        if self.over.is_some() {
            return;
        }
        self.answers.push_back(Frame::error(id, error));
        if error.code.closes() {
            let (code, reason) = match error.code {
                ErrorCode::TooLarge => (1009, "too_large"),
                _ => (1013, "too_many_clients"),
            };
            self.over = Some(Over { code, reason });
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let now = self.views.now();
        for (_, subscription) in &self.subscriptions {
            self.leave(subscription, now);
        }
        self.views.leave();
    }
}
