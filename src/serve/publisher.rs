//! KV events over ZMQ, as vLLM publishes them: `[topic, number, payload]` with a
//! msgpack array of time, events and rank; and a socket that says them again.

use crate::id::WorkerId;
use bytes::Bytes;
use serde::Serialize;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc::UnboundedReceiver;
use zeromq::{PubSocket, RouterSocket, Socket, SocketRecv, SocketSend, ZmqMessage};

/// Batches that can be said again: vLLM's `buffer_steps`.
const BUFFER: usize = 10_000;
/// What ends a replay: -1, big-endian.
const END: [u8; 8] = (-1_i64).to_be_bytes();

/// The events of one step of a worker.
#[derive(Clone, Debug)]
pub(super) struct Publication {
    pub(super) worker: WorkerId,
    pub(super) events: Vec<Event>,
}

/// A change of a cache in vLLM's words.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type")]
pub(super) enum Event {
    BlockStored {
        block_hashes: Vec<u64>,
        parent_block_hash: Option<u64>,
        token_ids: Vec<u32>,
        block_size: u32,
        medium: &'static str,
    },
    BlockRemoved {
        block_hashes: Vec<u64>,
        medium: &'static str,
    },
}

type Buffer = Arc<Mutex<VecDeque<(u64, Bytes)>>>;

/// The publisher of one worker.
pub(super) struct Publisher {
    socket: PubSocket,
    topic: Bytes,
    next: u64,
    buffer: Buffer,
}

impl Publisher {
    /// Publishes at the first address, and says again at the second.
    pub(super) async fn bind(
        worker: WorkerId,
        [events, replay]: [String; 2],
    ) -> Result<Self, String> {
        let wrong = |place: &str, error: zeromq::ZmqError| format!("KV events at {place}: {error}");
        let mut socket = PubSocket::new();
        socket.bind(&events).await.map_err(|error| wrong(&events, error))?;
        let mut router = RouterSocket::new();
        router.bind(&replay).await.map_err(|error| wrong(&replay, error))?;
        let topic = Bytes::from(format!("kv@{worker}"));
        let buffer = Buffer::default();
        tokio::spawn(say_again(router, topic.clone(), Arc::clone(&buffer)));
        Ok(Self { socket, topic, next: 0, buffer })
    }

    async fn publish(&mut self, events: &[Event]) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let payload = rmp_serde::to_vec_named(&(since.as_secs_f64(), events, 0));
        let payload = Bytes::from(payload.expect("plain data into memory"));
        let number = self.next;
        self.next += 1;
        {
            let mut buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
            buffer.push_back((number, payload.clone()));
            if buffer.len() > BUFFER {
                buffer.pop_front();
            }
        }
        // Without subscribers nothing is sent, and one that is gone misses nothing.
        let _ = self.socket.send(message([self.topic.clone(), numbered(number), payload])).await;
    }
}

/// Publishes what comes, until nothing can come any more.
pub(super) async fn publish_all(
    mut publishers: Vec<Publisher>,
    mut publications: UnboundedReceiver<Publication>,
) {
    while let Some(Publication { worker, events }) = publications.recv().await {
        publishers[worker.index()].publish(&events).await;
    }
}

/// Answers requests for the batches from some number on.
async fn say_again(mut socket: RouterSocket, topic: Bytes, buffer: Buffer) {
    while let Ok(question) = socket.recv().await {
        let frames = question.into_vec();
        let [peer, .., from] = &frames[..] else { continue };
        let Ok(from) = from[..].try_into().map(u64::from_be_bytes) else { continue };
        let batches: Vec<(u64, Bytes)> = {
            let buffer = buffer.lock().unwrap_or_else(PoisonError::into_inner);
            buffer.iter().filter(|(number, _)| *number >= from).cloned().collect()
        };
        let head = || [peer.clone(), Bytes::new()];
        for (number, payload) in batches {
            let frames = head().into_iter().chain([topic.clone(), numbered(number), payload]);
            if socket.send(message(frames)).await.is_err() {
                break;
            }
        }
        let end = [Bytes::new(), Bytes::copy_from_slice(&END), Bytes::new()];
        let _ = socket.send(message(head().into_iter().chain(end))).await;
    }
}

fn numbered(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_be_bytes())
}

fn message(frames: impl IntoIterator<Item = Bytes>) -> ZmqMessage {
    let frames: Vec<Bytes> = frames.into_iter().collect();
    ZmqMessage::try_from(frames).expect("at least one frame")
}
