//! KV events from a server: vLLM's ZMQ publisher and its replay socket.
//!
//! Messages are `[topic, number, payload]`; the payload is a msgpack array of a
//! time, the events of one engine step, and a rank. A number left out is a gap:
//! the replay socket is asked for what is missing, if there is one.

use super::cache::ServerEvent;
use super::key::place;
use crate::id::WorkerId;
use bytes::Bytes;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};
use zeromq::{DealerSocket, Socket, SocketRecv, SocketSend, SubSocket, ZmqMessage};

/// How long to wait for a connection to the publisher, and for the next message
/// of a replay (assumed: a server that is up answers within milliseconds).
const PATIENCE: Duration = Duration::from_secs(5);
/// The pause before a broken connection is opened again (assumed: so that a
/// server that is down is not asked all the time).
const AGAIN: Duration = Duration::from_millis(500);
/// What ends a replay: -1, big-endian.
const END: [u8; 8] = (-1_i64).to_be_bytes();

/// Where a server publishes its KV events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventSource {
    /// ZMQ address of the publisher, as `ipc:///run/kv.ipc` or `tcp://127.0.0.1:5557`.
    pub endpoint: String,
    /// ZMQ address of its replay socket, if it has one.
    pub replay: Option<String>,
    /// Whether the publisher connects to us: vLLM does, unless its address has a
    /// `*` or is a path.
    pub bind: bool,
}

impl EventSource {
    /// The source at vLLM's own setting of `endpoint`, seen from this machine.
    pub fn of_setting(endpoint: &str, replay: Option<&str>) -> Self {
        // The rules of vLLM's publisher.
        let they_bind = endpoint.contains('*')
            || endpoint.contains("::")
            || endpoint.starts_with("ipc://")
            || endpoint.starts_with("inproc://");
        let reach = |address: &str| address.replace('*', "127.0.0.1");
        Self { endpoint: reach(endpoint), replay: replay.map(reach), bind: !they_bind }
    }
}

/// What came from a server's publisher.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) worker: WorkerId,
    pub(super) at: Instant,
    pub(super) what: News,
}

/// See [`Heard`].
#[derive(Debug)]
pub(super) enum News {
    /// The events of one step.
    Events(Vec<ServerEvent>),
    /// So many batches were missed, and the replay socket gave them (they follow).
    Recovered(u64),
    /// So many batches are lost for good.
    Lost(u64),
    /// The server restarted: it holds nothing.
    Restarted,
    /// A message or event that makes no sense, or a socket that does not work.
    Broken(String),
}

/// A batch with its number.
type Batch = (u64, Bytes);

/// Listens to one publisher until its receiver is dropped.
pub(super) struct Listener {
    worker: WorkerId,
    source: EventSource,
    heard: Sender<Heard>,
    /// The number of the next batch; `None` before the first.
    next: Option<u64>,
    /// The number of the last batch: only a server that restarted has a smaller one.
    last: u64,
}

impl Listener {
    /// Connects; from then on nothing is missed without notice, if there is a replay socket.
    pub(super) async fn connect(
        worker: WorkerId,
        source: EventSource,
        heard: Sender<Heard>,
    ) -> Result<(Self, SubSocket), String> {
        let mut listener = Self { worker, source, heard, next: None, last: 0 };
        let socket = listener.subscribe().await?;
        if listener.source.replay.is_some() {
            // What was published before concerns texts of others; it only says where we are.
            let past = listener.replay(0).await?;
            listener.next = Some(past.last().map_or(0, |(number, _)| number + 1));
        }
        Ok((listener, socket))
    }

    async fn subscribe(&self) -> Result<SubSocket, String> {
        let EventSource { endpoint, bind, .. } = &self.source;
        let wrong = |error: String| format!("KV events at {}: {error}", place(endpoint));
        let mut socket = SubSocket::new();
        let open = async {
            socket.subscribe("").await?;
            if *bind {
                socket.bind(endpoint).await.map(drop)
            } else {
                socket.connect(endpoint).await
            }
        };
        let opened = tokio::time::timeout(PATIENCE, open).await;
        let opened = opened.map_err(|_| wrong(format!("no connection in {PATIENCE:?}")))?;
        opened.map_err(|error| wrong(error.to_string()))?;
        Ok(socket)
    }

    /// Hears until the receiver is gone.
    pub(super) async fn listen(mut self, mut socket: SubSocket) {
        loop {
            match socket.recv().await {
                Ok(message) => {
                    if self.take(message).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    // What is missed meanwhile shows in the numbers.
                    if self.say(News::Broken(error.to_string())).is_err() {
                        return;
                    }
                    tokio::time::sleep(AGAIN).await;
                    if let Ok(again) = self.subscribe().await {
                        socket = again;
                    }
                }
            }
        }
    }

    /// Takes a message in.
    ///
    /// # Errors
    /// If the receiver is dropped.
    async fn take(&mut self, message: ZmqMessage) -> Result<(), Gone> {
        let frames = message.into_vec();
        let [_, number, payload] = &frames[..] else {
            return self.broken(&format!("{} frames where 3 are usual", frames.len()));
        };
        let Some(number) = number_of(number) else {
            return self.broken(&format!("a batch number of {} bytes", number.len()));
        };
        let expected = self.next.unwrap_or(number);
        if number < self.last {
            self.say(News::Restarted)?;
            (self.next, self.last) = (Some(0), 0);
            return self.fill_and_pass(0, number, payload).await;
        }
        if number < expected {
            // It came twice: published and replayed while we connected.
            return Ok(());
        }
        self.fill_and_pass(expected, number, payload).await
    }

    /// Gets what is missing from `expected` on, passes it and then batch `number`.
    async fn fill_and_pass(
        &mut self,
        expected: u64,
        number: u64,
        payload: &Bytes,
    ) -> Result<(), Gone> {
        let missing = number - expected;
        if missing > 0 {
            let found = match self.replay(expected).await {
                Ok(found) => found,
                Err(reason) => {
                    self.say(News::Broken(reason))?;
                    Vec::new()
                }
            };
            let found: Vec<Batch> =
                found.into_iter().filter(|(at, _)| (expected..number).contains(at)).collect();
            let recovered = found.len() as u64;
            if recovered > 0 {
                self.say(News::Recovered(recovered))?;
            }
            if recovered < missing {
                self.say(News::Lost(missing - recovered))?;
            }
            for (_, payload) in found {
                self.pass(&payload)?;
            }
        }
        (self.next, self.last) = (Some(number + 1), number);
        self.pass(payload)
    }

    /// What the replay socket has from batch `from` on.
    async fn replay(&self, from: u64) -> Result<Vec<Batch>, String> {
        let Some(endpoint) = &self.source.replay else { return Ok(Vec::new()) };
        let wrong = |error: String| format!("replay of KV events at {}: {error}", place(endpoint));
        let mut socket = DealerSocket::new();
        let mut batches = Vec::new();
        let ask = async {
            socket.connect(endpoint).await?;
            let mut question = ZmqMessage::from(Bytes::new());
            question.push_back(Bytes::copy_from_slice(&from.to_be_bytes()));
            socket.send(question).await
        };
        match tokio::time::timeout(PATIENCE, ask).await {
            Err(_) => return Err(wrong(format!("no connection in {PATIENCE:?}"))),
            Ok(Err(error)) => return Err(wrong(error.to_string())),
            Ok(Ok(())) => {}
        }
        loop {
            let message = match tokio::time::timeout(PATIENCE, socket.recv()).await {
                Err(_) => return Err(wrong(format!("silent for {PATIENCE:?}"))),
                Ok(Err(error)) => return Err(wrong(error.to_string())),
                Ok(Ok(message)) => message.into_vec(),
            };
            // An empty delimiter, then topic, number and payload.
            let [.., number, payload] = &message[..] else {
                return Err(wrong(format!("{} frames in an answer", message.len())));
            };
            if number[..] == END {
                return Ok(batches);
            }
            let Some(number) = number_of(number) else {
                return Err(wrong(format!("a batch number of {} bytes", number.len())));
            };
            batches.push((number, payload.clone()));
        }
    }

    fn pass(&mut self, payload: &[u8]) -> Result<(), Gone> {
        match decode(payload) {
            Ok(events) => self.say(News::Events(events)),
            Err(error) => self.broken(&error),
        }
    }

    fn broken(&self, what: &str) -> Result<(), Gone> {
        self.say(News::Broken(what.to_owned()))
    }

    fn say(&self, what: News) -> Result<(), Gone> {
        let heard = Heard { worker: self.worker, at: Instant::now(), what };
        self.heard.send(heard).map_err(|_| Gone)
    }
}

/// The receiver is dropped.
struct Gone;

fn number_of(frame: &[u8]) -> Option<u64> {
    frame.try_into().ok().map(u64::from_be_bytes)
}

/// The events of a batch.
pub(super) fn decode(payload: &[u8]) -> Result<Vec<ServerEvent>, String> {
    /// Time, events, and the rank, which old versions leave out.
    #[derive(serde::Deserialize)]
    struct Batch(
        #[expect(dead_code, reason = "the server's clock is not ours")] f64,
        Vec<ServerEvent>,
        #[serde(default)]
        #[expect(dead_code, reason = "one engine per server")]
        Option<u32>,
    );
    let Batch(_, events, _) = rmp_serde::from_slice(payload)
        .map_err(|error| format!("{error} in a batch of {} bytes", payload.len()))?;
    Ok(events)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex, mpsc};
    use tokio::runtime::{Builder, Runtime};
    use zeromq::{PubSocket, RouterSocket};

    /// A publisher with a replay socket, and a listener.
    struct Rig {
        runtime: Runtime,
        socket: PubSocket,
        kept: Arc<Mutex<Vec<Batch>>>,
        heard: mpsc::Receiver<Heard>,
    }

    impl Rig {
        fn new(with_replay: bool) -> Self {
            let runtime =
                Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            let kept = Arc::<Mutex<Vec<Batch>>>::default();
            let (tell, heard) = mpsc::channel();
            let socket = runtime.block_on(async {
                let mut socket = PubSocket::new();
                let endpoint = socket.bind("tcp://127.0.0.1:0").await.unwrap().to_string();
                let mut router = RouterSocket::new();
                let replay = router.bind("tcp://127.0.0.1:0").await.unwrap().to_string();
                tokio::spawn(say_again(router, Arc::clone(&kept)));
                let replay = with_replay.then_some(replay);
                let source = EventSource { endpoint, replay, bind: false };
                let (listener, sub) = Listener::connect(WorkerId(0), source, tell).await.unwrap();
                tokio::spawn(listener.listen(sub));
                socket
            });
            let mut rig = Self { runtime, socket, kept, heard };
            // A subscription takes its time to arrive.
            while rig.heard.try_recv().is_err() {
                rig.send(0, &[0xc1]);
                std::thread::sleep(Duration::from_millis(20));
            }
            std::thread::sleep(Duration::from_millis(100));
            while rig.heard.try_recv().is_ok() {}
            rig
        }

        fn frames(&mut self, frames: &[&[u8]]) {
            let frames: Vec<Bytes> =
                frames.iter().map(|frame| Bytes::copy_from_slice(frame)).collect();
            let message = ZmqMessage::try_from(frames).unwrap();
            self.runtime.block_on(self.socket.send(message)).unwrap();
        }

        fn send(&mut self, number: u64, payload: &[u8]) {
            self.frames(&[b"kv", &number.to_be_bytes(), payload]);
        }

        /// What is heard next, in short.
        fn next(&self) -> String {
            match self.heard.recv_timeout(Duration::from_secs(10)).unwrap().what {
                News::Events(events) => format!("{} events", events.len()),
                News::Broken(_) => "broken".to_owned(),
                other => format!("{other:?}"),
            }
        }
    }

    async fn say_again(mut socket: RouterSocket, kept: Arc<Mutex<Vec<Batch>>>) {
        while let Ok(question) = socket.recv().await {
            let frames = question.into_vec();
            let from = number_of(&frames[frames.len() - 1]).unwrap();
            let kept = kept.lock().unwrap().clone();
            let batches = kept.into_iter().filter(|(number, _)| *number >= from);
            let batches = batches.map(|(number, payload)| (number.to_be_bytes(), payload));
            for (number, payload) in batches.chain([(END, Bytes::new())]) {
                let number = Bytes::copy_from_slice(&number);
                let answer = [frames[0].clone(), Bytes::new(), Bytes::new(), number, payload];
                socket.send(ZmqMessage::try_from(answer.to_vec()).unwrap()).await.unwrap();
            }
        }
    }

    /// A batch as vLLM sends it, with fields that are not known here.
    fn batch(blocks: u64) -> Vec<u8> {
        #[derive(serde::Serialize)]
        struct Stored<'a> {
            r#type: &'a str,
            block_hashes: Vec<u64>,
            parent_block_hash: Option<u64>,
            token_ids: Vec<u32>,
            block_size: u32,
            medium: &'a str,
            extra_keys: Option<u8>,
        }
        let event = |hash| Stored {
            r#type: "BlockStored",
            block_hashes: vec![hash | 1 << 63],
            parent_block_hash: None,
            token_ids: vec![1, 2],
            block_size: 2,
            medium: "GPU",
            extra_keys: None,
        };
        let events: Vec<Stored<'_>> = (0..blocks).map(event).collect();
        rmp_serde::to_vec_named(&(1.5, events, 0)).unwrap()
    }

    #[test]
    fn missing_batches_are_requested_and_lost_ones_reported() {
        let mut rig = Rig::new(true);
        rig.send(1, &batch(1));
        rig.kept.lock().unwrap().extend([(2, batch(2).into()), (3, batch(3).into())]);
        rig.send(4, &batch(4));
        rig.send(6, &batch(6));
        let heard: Vec<String> = (0..7).map(|_| rig.next()).collect();
        let expected =
            ["1 events", "Recovered(2)", "2 events", "3 events", "4 events", "Lost(1)", "6 events"];
        assert_eq!(heard, expected);
    }

    #[test]
    fn without_a_replay_socket_a_gap_is_a_loss() {
        let mut rig = Rig::new(false);
        rig.send(1, &batch(1));
        rig.send(5, &batch(2));
        assert_eq!([rig.next(), rig.next(), rig.next()], ["1 events", "Lost(3)", "2 events"]);
    }

    #[test]
    fn nonsense_is_told_and_the_next_batch_heard() {
        let mut rig = Rig::new(true);
        rig.send(1, b"no msgpack");
        rig.frames(&[b"two", b"frames"]);
        rig.frames(&[b"kv", b"short", b""]);
        rig.send(2, &rmp_serde::to_vec_named(&(0.0, [("type", "Unheard of")], 0)).unwrap());
        rig.send(3, &batch(1));
        let heard: Vec<String> = (0..5).map(|_| rig.next()).collect();
        assert_eq!(heard, ["broken", "broken", "broken", "broken", "1 events"]);
    }

    #[test]
    fn a_server_that_counts_from_the_start_has_restarted() {
        let mut rig = Rig::new(true);
        rig.send(1, &batch(1));
        rig.send(0, &batch(2));
        assert_eq!([rig.next(), rig.next(), rig.next()], ["1 events", "Restarted", "2 events"]);
    }

    #[test]
    fn places_are_read_as_vllm_reads_them() {
        let source = |endpoint| EventSource::of_setting(endpoint, None);
        assert!(!source("ipc:///run/kv.ipc").bind);
        assert!(source("tcp://127.0.0.1:5557").bind);
        let EventSource { endpoint, bind, .. } = source("tcp://*:5557");
        assert_eq!((endpoint.as_str(), bind), ("tcp://127.0.0.1:5557", false));
    }
}
