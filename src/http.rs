//! The HTTP server of everything that is served: connections to the routes of `axum`.

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::time::Duration;
use tokio::net::TcpListener;

/// For the head of a request, and for the next request on an open connection (assumed:
/// longer than clients keep idle connections, and short enough that those who say nothing
/// do not take up every file).
const HEAD_PATIENCE: Duration = Duration::from_secs(30);

/// Where no connection can be taken, the next one is not before this.
const PAUSE: Duration = Duration::from_millis(50);

/// Answers with `routes` as long as there are connections. One that is closed by its client
/// drops what was being answered.
pub(crate) async fn serve(listener: TcpListener, routes: Router) {
    serve_patiently(listener, routes, HEAD_PATIENCE).await;
}

async fn serve_patiently(listener: TcpListener, routes: Router, patience: Duration) {
    loop {
        // Out of files, most likely: connections that end will free some.
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        // Tokens go out one by one.
        let _ = stream.set_nodelay(true);
        let routes = TowerToHyperService::new(routes.clone());
        tokio::spawn(async move {
            // A client that breaks off hears nothing more.
            let _ = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(patience)
                .serve_connection(TokioIo::new(stream), routes)
                .await;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpStream;

    /// One that says nothing, one that stops in its head, and one that stays after its
    /// request: all are closed, and a request meanwhile is answered.
    #[test]
    fn a_client_that_does_not_come_to_its_point_is_not_waited_for() {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let address = listener.local_addr().expect("bound");
        let routes = Router::new().route("/", axum::routing::get(|| async { "here" }));
        runtime.spawn(serve_patiently(listener, routes, Duration::from_millis(200)));
        let begin = |said: &str| {
            let mut stream = TcpStream::connect(address).expect("it listens");
            stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
            stream.write_all(said.as_bytes()).expect("taken");
            stream
        };
        let request = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";
        let clients = [begin(""), begin(&request[..20]), begin(request)];
        let heard = clients.map(|mut client| {
            let mut heard = String::new();
            client.read_to_string(&mut heard).expect("it is closed");
            heard
        });
        assert!(!heard[0].contains("here") && !heard[1].contains("here"), "{heard:?}");
        assert!(heard[2].ends_with("here"), "{heard:?}");
    }
}
