//! A server with vLLM's interface and one fault.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What the server does to every request for a completion but the trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// Sends so many tokens, then the port is closed.
    Killed(u32),
    /// Takes the request and says nothing.
    Silent,
    /// Resets the connection while the request is being sent.
    Reset,
    /// Ends inside a chunk of the HTTP body.
    HalfChunk,
    /// Ends after whole chunks, but before `[DONE]`.
    NoDone,
    /// Sends a chunk that is no JSON.
    BadJson,
    /// Sends an error in the stream, as vLLM does.
    ErrorChunk,
    /// Answers with an error status.
    Status(u16),
    /// Answers 503 so many times, then as it should.
    Busy(u32),
    /// Puts several tokens into one chunk.
    Bundles,
    /// Sends twice as many tokens as asked for.
    TooMany,
    /// Reads the request slowly and answers as it should.
    SlowReader,
    /// Says that the prompt was longer than it is.
    OtherPrompt,
    /// Sends half as many tokens as asked for, with a good end.
    TooFew,
    /// Says that more of the prompt was cached than there is.
    TooMuchCached,
    /// Says that it made more tokens than it sent.
    OtherCount,
    /// Leaves the usage out.
    NoUsage,
    /// A usage below zero.
    NegativeUsage,
    /// Tokens that are no numbers.
    WordsForTokens,
    /// Ends with `finish_reason` `abort`.
    Aborted,
    /// Sends the client elsewhere.
    Redirect,
    /// A page of a proxy where a stream should be.
    Page,
    /// A line that does not end, of so many bytes.
    Line(usize),
    /// Comments that keep the stream alive, and nothing else.
    Comments,
    /// Something that is no HTTP.
    NoHttp,
    /// A refusal that says the key.
    SaysKey,
    /// An error in the stream that says the key, where a shortened text would cut it.
    StreamsKey,
    /// A chunk that is no JSON and has the key in it.
    BrokenKey,
    /// Serves a model whose name is the key.
    NamedKey,
}

pub(super) struct Server {
    pub(super) url: String,
    /// Completions begun, the trial included.
    pub(super) completions: Arc<AtomicU32>,
}

#[derive(Clone)]
struct Shared {
    fault: Fault,
    block_size: u32,
    num_blocks: u32,
    max_model_len: u32,
    completions: Arc<AtomicU32>,
    dead: Arc<AtomicBool>,
    port: u16,
    /// The header `Authorization` of the last request.
    authorization: Arc<Mutex<String>>,
}

impl Server {
    /// Listens on a port of loopback until the test ends.
    pub(super) fn start(
        fault: Fault,
        engine: &kv_router_sim::engine::config::EngineConfig,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let completions = Arc::new(AtomicU32::new(0));
        let shared = Shared {
            fault,
            block_size: engine.block_size,
            num_blocks: engine.num_blocks + 1,
            max_model_len: engine.max_model_len,
            completions: Arc::clone(&completions),
            dead: Arc::new(AtomicBool::new(false)),
            port,
            authorization: Arc::default(),
        };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.dead.load(Ordering::SeqCst) {
                    return;
                }
                let shared = shared.clone();
                std::thread::spawn(move || shared.connection(&stream.expect("a connection")));
            }
        });
        Self { url: format!("http://127.0.0.1:{port}"), completions }
    }
}

impl Shared {
    /// Answers requests until one of the two ends the connection.
    fn connection(&self, stream: &TcpStream) -> Option<()> {
        stream.set_nodelay(true).ok()?;
        let mut reader = BufReader::with_capacity(256, stream);
        loop {
            let mut head = String::new();
            let mut length = 0;
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).ok()? == 0 {
                    return None;
                }
                if line.to_ascii_lowercase().starts_with("authorization:") {
                    let value = line["authorization:".len()..].trim();
                    *self.authorization.lock().expect("whole") = value.to_owned();
                }
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().expect("a number");
                }
                if line == "\r\n" {
                    break;
                }
                head.push_str(&line);
            }
            let path = head.split(' ').nth(1).expect("a request line").to_owned();
            let is_trial =
                path == "/v1/completions" && self.completions.fetch_add(1, Ordering::SeqCst) == 0;
            let fault = if is_trial { Fault::None } else { self.fault };
            let is_completion = path == "/v1/completions";
            if is_completion && fault == Fault::Reset {
                // Closing with unread bytes sends a reset.
                return None;
            }
            let mut body = vec![0; length];
            if is_completion && fault == Fault::SlowReader {
                for piece in body.chunks_mut(400) {
                    reader.read_exact(piece).ok()?;
                    std::thread::sleep(Duration::from_millis(1));
                }
            } else {
                reader.read_exact(&mut body).ok()?;
            }
            if is_completion {
                self.complete(stream, fault, &body)?;
            } else {
                let (status, text) = self.fact(&path);
                respond(stream, status, &text)?;
            }
        }
    }

    fn fact(&self, path: &str) -> (u16, String) {
        let Self { block_size, num_blocks, max_model_len, .. } = self;
        match path {
            "/version" => (200, r#"{"version":"0.32.0"}"#.to_owned()),
            "/v1/models" => {
                let name = if self.fault == Fault::NamedKey { self.said() } else { "tiny".into() };
                let card = serde_json::json!({ "id": name, "max_model_len": max_model_len });
                (200, serde_json::json!({ "data": [card] }).to_string())
            }
            "/metrics" => (
                200,
                format!(
                    "vllm:num_requests_waiting{{engine=\"0\"}} 2.0\nvllm:kv_cache_usage_perc{{engine=\"0\"}} 0.5\n\
                     vllm:cache_config_info{{block_size=\"{block_size}\",enable_prefix_caching=\"True\",\
                     num_gpu_blocks=\"{num_blocks}\"}} 1.0\n"
                ),
            ),
            _ => (404, r#"{"detail":"Not Found"}"#.to_owned()),
        }
    }

    /// The key, as it came.
    fn said(&self) -> String {
        self.authorization.lock().expect("whole").clone()
    }

    fn complete(&self, stream: &TcpStream, fault: Fault, body: &[u8]) -> Option<()> {
        let body: serde_json::Value = serde_json::from_slice(body).expect("JSON");
        let prompt = body["prompt"].as_array().expect("token ids").len();
        let tokens = u32::try_from(body["max_tokens"].as_u64().expect("a number")).expect("few");
        assert!(body["stream"] == true && body["ignore_eos"] == true, "{body}");
        match fault {
            Fault::Silent => {
                std::thread::sleep(Duration::from_secs(30));
                return None;
            }
            Fault::SaysKey => {
                let said = self.said();
                let message = format!("wrong: {said}; yes, {said}");
                let body = serde_json::json!({ "error": { "message": message } });
                return respond(stream, 401, &body.to_string());
            }
            Fault::Page => return respond(stream, 200, "<html><p>Login</p></html>"),
            Fault::NoHttp => {
                let mut out = stream;
                return out.write_all(b"SSH-2.0-OpenSSH_9.6\r\n\r\n").ok();
            }
            Fault::Redirect => {
                let mut out = stream;
                let said = self.said();
                let head = format!(
                    "HTTP/1.1 302 X\r\nlocation: http://127.0.0.1:1/?key={said}\r\ncontent-length: 0\r\n\r\n"
                );
                return out.write_all(head.as_bytes()).ok();
            }
            Fault::Status(status) => {
                return respond(stream, status, r#"{"error":{"message":"no, thank you"}}"#);
            }
            Fault::Busy(times) if self.completions.load(Ordering::SeqCst) <= 1 + times => {
                return respond(stream, 503, r#"{"error":{"message":"full"}}"#);
            }
            _ => {}
        }
        let mut out = stream;
        out.write_all(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
        )
        .ok()?;
        let total = match fault {
            Fault::TooMany => 2 * tokens,
            Fault::TooFew => tokens / 2,
            _ => tokens,
        };
        let bundle = if fault == Fault::Bundles { 3 } else { 1 };
        let mut sent = 0;
        while sent < total {
            let ids: Vec<u32> = (sent..total.min(sent + bundle)).map(|id| 100 + id).collect();
            sent += bundle;
            match fault {
                Fault::HalfChunk if sent > 2 => {
                    out.write_all(b"40\r\ndata: {\"choices\":[{\"te").ok()?;
                    return None;
                }
                Fault::NoDone if sent > 2 => {
                    out.write_all(b"0\r\n\r\n").ok()?;
                    return None;
                }
                Fault::Killed(after) if sent > after => {
                    self.dead.store(true, Ordering::SeqCst);
                    let _ = TcpStream::connect(("127.0.0.1", self.port));
                    return None;
                }
                Fault::Line(bytes) => {
                    event(stream, &"x".repeat(bytes))?;
                    return None;
                }
                Fault::Comments => loop {
                    std::thread::sleep(Duration::from_millis(100));
                    out.write_all(b"5\r\n:\r\n\r\n\r\n").ok()?;
                },
                Fault::WordsForTokens => {
                    event(stream, r#"{"choices":[{"text":"a","token_ids":["a"]}]}"#)?;
                }
                Fault::Aborted => {
                    let end = r#"{"choices":[{"text":"","token_ids":[],"finish_reason":"abort"}]}"#;
                    event(stream, end)?;
                }
                Fault::StreamsKey if sent > 2 => {
                    let said = self.said();
                    let message = format!("{}{said}", "x".repeat(200 - said.len() / 2));
                    let error = serde_json::json!({ "error": { "message": message } });
                    event(stream, &error.to_string())?;
                }
                Fault::BrokenKey if sent > 2 => {
                    event(stream, &format!("{{\"choices\": \"{}\"}}", self.said()))?;
                }
                Fault::BadJson if sent > 2 => event(stream, "{\"choices\": [oops")?,
                Fault::ErrorChunk if sent > 2 => {
                    event(stream, r#"{"error":{"message":"EngineDeadError","code":500}}"#)?;
                }
                _ => event(
                    stream,
                    &format!(r#"{{"choices":[{{"index":0,"text":"a","token_ids":{ids:?}}}]}}"#),
                )?,
            }
        }
        let prompt = if fault == Fault::OtherPrompt { prompt + 1 } else { prompt };
        let cached = if fault == Fault::TooMuchCached { prompt + 1 } else { prompt.min(7) };
        let made = if fault == Fault::OtherCount { total + 5 } else { total };
        let made = if fault == Fault::NegativeUsage { "-8".to_owned() } else { made.to_string() };
        if fault != Fault::NoUsage {
            event(
                stream,
                &format!(
                    r#"{{"choices":[],"usage":{{"prompt_tokens":{prompt},"completion_tokens":{made},"prompt_tokens_details":{{"cached_tokens":{cached}}}}}}}"#
                ),
            )?;
        }
        event(stream, "[DONE]")?;
        out.write_all(b"0\r\n\r\n").ok()
    }
}

fn event(mut stream: &TcpStream, data: &str) -> Option<()> {
    let event = format!("data: {data}\n\n");
    stream.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes()).ok()
}

fn respond(mut stream: &TcpStream, status: u16, body: &str) -> Option<()> {
    let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all((head + body).as_bytes()).ok()
}
