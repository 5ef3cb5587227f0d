//! The control link between process 0 and each other process: both sides can ask, and each question gets one answer.
//!
//! A message has a kind, the number of the question, and up to [`LARGEST`] bytes that this module does not read. It is
//! sent in frames of up to [`FRAME`] bytes. Messages take turns, so a small one does not wait for a checkpoint of
//! hundreds of megabytes. Questions do not wait for each other: each has its own task, so answers may arrive in another
//! order. A caller that needs an order waits for the answer before the next question.
//!
//! All queues are bounded. At most [`UNSENT`] messages wait for the network, and as many are being sent; then the
//! senders wait. At most [`AT_A_TIME`] questions of a peer are handled at a time; then the link is not read.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind};
use std::net;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::heartbeat::{Alarm, Loss, Lost};

/// The largest content of a message, bytes: larger than any checkpoint.
const LARGEST: usize = 300 << 20;

/// The largest content of a frame, bytes.
const FRAME: usize = 256 << 10;

/// The most messages that wait for the network.
const UNSENT: usize = 64;

/// The most questions of a peer that are handled at a time.
const AT_A_TIME: usize = 1024;

const QUESTION: u8 = b'?';
const ANSWER: u8 = b'!';

/// Set in the kind of a frame if more frames of its message follow.
const MORE: u8 = 0x80;

/// A connection to another process before anything is sent over it.
pub struct ControlSocket {
    pub process: usize,
    pub host: String,
    pub(super) socket: net::TcpStream,
    pub(super) alarm: Alarm,
}

/// The other process is gone, so this one is about to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the connection to the other process is closed")]
pub struct Gone;

/// Answers the questions of a peer.
pub type Answers = Arc<dyn Fn(Vec<u8>) -> BoxFuture<'static, Vec<u8>> + Send + Sync>;

/// One end of a control link. Clones share it.
#[derive(Clone)]
pub struct Control {
    messages: mpsc::Sender<Message>,
    waiting: Waiting,
    next: Arc<AtomicU64>,
}

struct Message {
    kind: u8,
    number: u64,
    content: Vec<u8>,
}

/// A message that is being sent.
struct Sending {
    message: Message,
    /// bytes that are sent already
    sent: usize,
}

/// Unanswered questions; `None` after the link is closed.
type Waiting = Arc<Mutex<Option<HashMap<u64, oneshot::Sender<Vec<u8>>>>>>;

impl ControlSocket {
    /// Starts sending and receiving, on the current runtime. If the link breaks, the peer is reported as lost.
    ///
    /// # Errors
    /// The system's error if the socket cannot be used.
    pub fn start(self, answers: Answers) -> io::Result<Control> {
        let ControlSocket { process, host, socket, alarm } = self;
        socket.set_nonblocking(true)?;
        let (reader, writer) = TcpStream::from_std(socket)?.into_split();
        let (messages, unsent) = mpsc::channel(UNSENT);
        let waiting: Waiting = Arc::new(Mutex::new(Some(HashMap::new())));
        let control = Control { messages, waiting, next: Arc::default() };
        let (weak, waiting) = (control.messages.downgrade(), control.waiting.clone());
        tokio::spawn(async move {
            let ended = tokio::select! {
                ended = read(reader, answers, &weak, &waiting) => ended,
                ended = write(writer, unsent) => ended,
            };
            waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Err(error) = ended {
                let how = match error.kind() {
                    ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Loss::Closed,
                    _ => Loss::Broken(error.to_string()),
                };
                alarm.raise_later(Lost { process, host, how }).await;
            }
        });
        Ok(control)
    }
}

impl Control {
    /// Asks the other process, and waits for its answer.
    ///
    /// # Errors
    /// [`Gone`]
    pub async fn ask(&self, content: Vec<u8>) -> Result<Vec<u8>, Gone> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (done, answer) = oneshot::channel();
        let asked = Asked { number, waiting: &self.waiting };
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).as_mut().ok_or(Gone)?.insert(number, done);
        self.messages.send(Message { kind: QUESTION, number, content }).await.map_err(|_| Gone)?;
        let answer = answer.await.map_err(|_| Gone);
        drop(asked);
        answer
    }
}

/// A pending question. Dropping it forgets the question.
struct Asked<'a> {
    number: u64,
    waiting: &'a Waiting,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = &mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) {
            waiting.remove(&self.number);
        }
    }
}

/// Sends messages until all senders are gone; then returns without an error.
async fn write(mut writer: impl AsyncWrite + Unpin, mut unsent: mpsc::Receiver<Message>) -> io::Result<()> {
    let mut turns: VecDeque<Sending> = VecDeque::new();
    loop {
        let new = match turns.is_empty() {
            true => match unsent.recv().await {
                Some(message) => Some(message),
                None => return Ok(()),
            },
            false if turns.len() < UNSENT => unsent.try_recv().ok(),
            false => None,
        };
        // A frame of a new message, then one of a message that has begun: neither waits for more than one of the other.
        if let Some(message) = new {
            if message.content.len() > LARGEST {
                return Err(io::Error::new(ErrorKind::InvalidInput, "a message is too large"));
            }
            turns.extend(write_frame(&mut writer, Sending { message, sent: 0 }).await?);
        }
        if let Some(turn) = turns.pop_front() {
            turns.extend(write_frame(&mut writer, turn).await?);
        }
    }
}

/// Sends the next frame of a message; returns the message unless that was its last frame.
async fn write_frame(writer: &mut (impl AsyncWrite + Unpin), turn: Sending) -> io::Result<Option<Sending>> {
    let Message { kind, number, content } = &turn.message;
    let end = content.len().min(turn.sent + FRAME);
    let frame = &content[turn.sent..end];
    let more = end < content.len();
    let mut head = [0; 13];
    head[..4].copy_from_slice(&(frame.len() as u32).to_be_bytes());
    head[4] = if more { kind | MORE } else { *kind };
    head[5..].copy_from_slice(&number.to_be_bytes());
    writer.write_all(&head).await?;
    writer.write_all(frame).await?;
    Ok(more.then_some(Sending { sent: end, ..turn }))
}

async fn read(
    reader: OwnedReadHalf,
    answers: Answers,
    messages: &mpsc::WeakSender<Message>,
    waiting: &Waiting,
) -> io::Result<()> {
    let invalid = |what: String| Err(io::Error::new(ErrorKind::InvalidData, what));
    let mut reader = BufReader::new(reader);
    let places = Arc::new(Semaphore::new(AT_A_TIME));
    // Messages that have not arrived completely.
    let mut coming: HashMap<(u8, u64), Vec<u8>> = HashMap::new();
    loop {
        let length = reader.read_u32().await? as usize;
        let kind = reader.read_u8().await?;
        let number = reader.read_u64().await?;
        if length > FRAME {
            return invalid(format!("a frame of {length} bytes"));
        }
        let (more, kind) = (kind & MORE != 0, kind & !MORE);
        let begun = coming.len();
        let mut content = match coming.entry((kind, number)) {
            Entry::Occupied(known) => known.remove(),
            Entry::Vacant(_) => Vec::new(),
        };
        if content.len() + length > LARGEST || begun > UNSENT {
            return invalid(format!("a message of {} bytes, beside {begun} others", content.len() + length));
        }
        if (&mut reader).take(length as u64).read_to_end(&mut content).await? < length {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if more {
            coming.insert((kind, number), content);
            continue;
        }
        match kind {
            QUESTION => {
                let Ok(place) = places.clone().acquire_owned().await else { return Ok(()) };
                let Some(messages) = messages.upgrade() else { return Ok(()) };
                let answer = answers(content);
                tokio::spawn(async move {
                    let content = answer.await;
                    let _ = messages.send(Message { kind: ANSWER, number, content }).await;
                    drop(place);
                });
            }
            ANSWER => {
                let asked = waiting.lock().unwrap_or_else(PoisonError::into_inner);
                let asked = { asked }.as_mut().and_then(|asked| asked.remove(&number));
                if let Some(asked) = asked {
                    let _ = asked.send(content);
                }
            }
            kind => return invalid(format!("a message of the unknown kind {kind}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The frames of what was sent: the kind and number of each.
    fn frames(mut sent: &[u8]) -> Vec<(u8, u64)> {
        let mut frames = Vec::new();
        while let Some((head, rest)) = sent.split_first_chunk::<13>() {
            let length = u32::from_be_bytes(head[..4].try_into().expect("four bytes")) as usize;
            frames.push((head[4], u64::from_be_bytes(head[5..].try_into().expect("eight bytes"))));
            sent = &rest[length..];
        }
        frames
    }

    #[tokio::test]
    async fn small_messages_and_a_large_one_take_turns() {
        let (messages, unsent) = mpsc::channel(UNSENT);
        let send = |number: u64, bytes: usize| Message { kind: QUESTION, number, content: vec![0; bytes] };
        messages.try_send(send(0, 10 * FRAME)).expect("there is room");
        (1..=50).for_each(|number| messages.try_send(send(number, 1)).expect("there is room"));
        drop(messages);
        let mut sent = Vec::new();
        write(&mut sent, unsent).await.expect("memory takes all");
        let frames = frames(&sent);
        assert_eq!(frames.len(), 10 + 50);
        let last_of_large = frames.iter().position(|frame| *frame == (QUESTION, 0));
        assert_eq!(last_of_large, Some(17), "each small message lets a frame of the large one pass");
        let small: Vec<u64> = frames.iter().map(|(_, number)| *number).filter(|number| *number > 0).collect();
        assert_eq!(small, (1..=50).collect::<Vec<_>>());
    }
}
