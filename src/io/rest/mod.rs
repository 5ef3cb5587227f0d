//! The `rest` sink: each message becomes an HTTP request.
//!
//! Requests wait in an [`Outbox`], so the engine never waits for a server. They are sent in order, one at a time unless
//! `concurrency` allows more, and repeated while the server is unreachable or asks to wait (`sender`). All rest sinks
//! of a process share one separate thread, so neither data nor the REST API waits for TLS or a slow response.
//! [`crate::io::egress`] decides where a request may go.

mod client;
mod hosts;
mod multipart;
mod order;
mod properties;
mod request;
mod sender;
mod tokens;
mod verdict;

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde_json::{Map, Value as Json};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::client::HttpClient;
use self::order::{Order, Turn};
use self::properties::{Draft, PROPERTIES};
use self::request::{BodyType, Dynamic, Method};
use self::tokens::{OAuth, Tokens};
use crate::format::address::Addressing;
use crate::format::compress;
use crate::format::sink_format::{OutputFormat, SinkFormat};
use crate::io::LinkStatus;
use crate::io::batch_queue::QueueLimit;
use crate::io::egress::{Destination, Egress};
use crate::io::outbox::Outbox;
use crate::io::queue::{Signal, SinkHandle};
use crate::io::reach::{Reach, ReachError};
use crate::io::sink::{OpenSink, SinkSettings};
use crate::io::spool::{CacheSettings, Held};
use crate::io::tls::ClientTls;
use crate::property::{self, Entry, Invalid, Warning};
use crate::sync::locked;
use crate::text::secret::masked_url;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct RestSink {
    method: Dynamic<Method>,
    url: Dynamic<String>,
    body_type: Dynamic<BodyType>,
    headers: Vec<(String, Dynamic<String>)>,
    /// the fields that `bodyType: formdata` sends beside the message
    form: Form,
    oauth: Option<OAuth>,
    /// the templates among these, in order; `None`: all requests are alike
    addressing: Option<Addressing>,
    /// the destination, if it does not depend on messages: scheme, host and port
    origin: Option<Origin>,
    tls: Option<ClientTls>,
    timeout: Duration,
    concurrency: usize,
    retry: Retry,
    queue: QueueLimit,
    cache: Option<CacheSettings>,
    debug_response: bool,
    response: ResponseType,
    /// the compression of bodies
    encoding: Option<compress::Method>,
}

/// A form with a file.
#[derive(Clone, Debug, Default, PartialEq)]
struct Form {
    /// the field that holds the message
    file: String,
    fields: Vec<(String, Dynamic<String>)>,
}

/// The part of a URL that identifies the server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Origin {
    secure: bool,
    /// IPv6 addresses without brackets
    host: String,
    port: u16,
}

/// When a request is repeated.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Retry {
    /// the first wait
    initial: Duration,
    /// the longest wait; each wait is twice the previous one
    max: Duration,
    /// the most server errors for one message before it is lost
    attempts: u64,
}

/// How a successful response is recognised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ResponseType {
    /// by the status
    #[default]
    Code,
    /// by the status and the member `code` of the response's JSON
    Body,
}

/// All properties with their documentation.
pub fn entries() -> Vec<Entry> {
    property::entries(PROPERTIES)
}

/// The chapter of documentation.
pub fn reference() -> String {
    format!(
        "## rest\n\n\
         Sends each message as an HTTP request. `method`, `url`, `bodyType` and the values of `headers` may be [templates](sinks.md#templates): \
         the dot is the row with `sendSingle`, else the list of rows. A request succeeds with a status from 200 to 299. \
         A server that cannot be reached, 429 and 503 are tried again until they succeed, other errors of the server `retry.attempts` times; \
         waits grow, and `Retry-After` is honoured. Any other status loses the message, counted as `refused`. \
         Requests are sent in order, one after the other; with `concurrency` above 1 they are not. \
         Where messages name the server (a template in the host of `url`), one that fails, or takes longer than 1 s, does not delay those for others: \
         its messages wait apart, up to 256 for each of 256 servers and 16 MiB together, and each is lost, counted as `server error`, \
         after `retry.attempts` failures of any kind or if too many wait. \
         What waits is bounded by `queue`: the oldest messages are dropped and counted; with `enableCache` it outlives this process. \
         With `oAuth`, a token is fetched before the first request, and again when it has expired or is answered with 401. \
         Addresses of this machine and link-local ones need [`basic.egressAllow`](security.md#requests-of-sinks).\n\n{}",
        property::reference::table(&entries(), true)
    )
}

impl SinkSettings for RestSink {
    fn kind(&self) -> &'static str {
        "rest"
    }

    /// The format that `bodyType` requires; with templates each message gets an address.
    fn form(&mut self, mut format: SinkFormat, has_format: bool) -> Result<SinkFormat, String> {
        if let Some(reason) = self.cache.as_ref().and_then(|cache| cache.refuses(&format)) {
            return Err(reason);
        }
        if let Dynamic::Fixed(body_type) = &self.body_type {
            match body_type {
                BodyType::Form if !has_format && format.template.is_none() => format.format = OutputFormat::UrlEncoded,
                BodyType::Form if format.format != OutputFormat::UrlEncoded && format.template.is_none() => {
                    return Err("format must be urlencoded if bodyType is form".to_owned());
                }
                BodyType::Json if format.format != OutputFormat::Json => {
                    return Err("format must be json if bodyType is json".to_owned());
                }
                _ => {}
            }
        }
        if self.addressing.is_some() && format.send_single && format.gathers() {
            return Err("a template gives each row its own request, so batches are not possible: leave out batchSize \
             and lingerInterval, or sendSingle"
                .to_owned());
        }
        self.encoding = format.compression;
        format.to = self.addressing.clone();
        Ok(format)
    }

    fn cache(&self) -> Option<(CacheSettings, String)> {
        self.cache.clone().map(|cache| (cache, self.address()))
    }

    /// Checks the part of the URL that does not depend on messages.
    fn check(&self, reach: &Reach) -> Result<(), ReachError> {
        let check = |property, origin: &Origin| {
            let destination = Destination { host: &origin.host, port: origin.port, written: true };
            reach.check_egress(property, |egress| egress.check_host(destination))
        };
        self.origin.iter().try_for_each(|origin| check("url", origin))?;
        self.oauth.iter().flat_map(OAuth::servers).try_for_each(|origin| check("oAuth", origin))
    }
}

impl RestSink {
    /// Checks a sink's properties.
    ///
    /// # Errors
    /// [`Invalid`]
    pub fn new(props: &Map<String, Json>) -> Result<(RestSink, Vec<Warning>), Invalid> {
        let (draft, mut found): (Draft, _) = crate::io::properties::read(PROPERTIES, props);
        let sink = draft.settle(&mut found);
        found.finish(sink)
    }

    /// The URL for people, without secrets.
    fn address(&self) -> String {
        let url = match (&self.url, &self.addressing) {
            (Dynamic::Fixed(url), _) => url.as_str(),
            (Dynamic::Part(part), Some(addressing)) => addressing.parts.get(*part).map_or("", |part| &part.text),
            (Dynamic::Part(_), None) => "",
        };
        masked_url(url).into_owned()
    }
}

/// The rest sinks of a process share this.
#[derive(Clone, Default)]
pub struct RestClients {
    /// sends requests; it exists from the first sink that needs it to the last
    thread: Arc<Mutex<Option<Arc<Thread>>>>,
    order: Order,
}

struct Thread {
    handle: Handle,
    end: CancellationToken,
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

impl RestClients {
    ///
    /// # Errors
    /// The system's error if the thread cannot be started.
    pub(super) fn open(&self, sink: RestSink, egress: Egress, store: Option<(Held, Signal)>) -> io::Result<RestLink> {
        let thread = self.thread()?;
        let outbox = match store {
            Some((store, signal)) => Outbox::stored(store, signal),
            None => Outbox::new(sink.queue),
        };
        let address = sink.address();
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let turn = self.order.turn(&address);
        let client_of = |origin| HttpClient::new(origin, sink.tls.clone(), sink.timeout, egress.clone());
        let client = client_of(sink.origin.clone());
        let tokens = sink.oauth.clone().map(|oauth| Tokens::new(oauth, |origin| client_of(Some(origin.clone()))));
        let (sending, stopped, own_turn) = (outbox.clone(), stop.clone(), turn.clone());
        let task = async move {
            // Requests in progress are dropped with it, and the outbox counts them.
            let send = sender::send(&sending, &sink, &client, tokens.as_ref(), own_turn.comes());
            let _ = stopped.run_until_cancelled(send).await;
        };
        tasks.spawn_on(task, &thread.handle);
        tasks.close();
        Ok(RestLink { outbox, address, turn, stop, tasks, _thread: thread })
    }

    fn thread(&self) -> io::Result<Arc<Thread>> {
        let mut known = locked(&self.thread);
        if let Some(thread) = &*known {
            return Ok(thread.clone());
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (handle, end) = (runtime.handle().clone(), CancellationToken::new());
        let ends = end.clone();
        std::thread::Builder::new().name("rest".to_owned()).spawn(move || runtime.block_on(ends.cancelled()))?;
        let thread = Arc::new(Thread { handle, end });
        *known = Some(thread.clone());
        Ok(thread)
    }
}

/// An open sink.
pub struct RestLink {
    outbox: Arc<Outbox>,
    address: String,
    turn: Turn,
    stop: CancellationToken,
    tasks: TaskTracker,
    _thread: Arc<Thread>,
}

impl OpenSink for RestLink {
    fn outlet(&self) -> SinkHandle {
        SinkHandle::Messages(self.outbox.clone())
    }

    fn status(&self) -> LinkStatus {
        self.outbox.status(self.address.clone())
    }

    fn go_first(&self) {
        self.turn.leave(&self.tasks);
    }

    /// Messages that remain after `flush` are lost and counted.
    fn close(&self, flush: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.outbox.close();
            self.outbox.drain(tokio::time::Instant::now() + flush).await;
            self.stop.cancel();
            self.tasks.wait().await;
            self.outbox.clear();
            self.outbox.release().await;
        })
    }
}

/// A link that was not closed sends nothing more.
impl Drop for RestLink {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
