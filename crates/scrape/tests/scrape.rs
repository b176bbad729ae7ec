//! Figures for whoever comes.

#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

fn serve() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        // Long enough for a reply to be more than a socket takes at once.
        let page =
            |accept: &str| ("text/plain; version=0.0.4", format!("{accept}\n{}", "x 1\n".repeat(1 << 20)));
        runtime.block_on(scrape::serve(listener, page));
    });
    address
}

fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\naccept: as/wanted\r\n\r\n").unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    reply
}

#[test]
fn nothing_else_is_there() {
    let address = serve();
    assert!(get(address, "/metrics").contains("as/wanted\nx 1\n"));
    assert!(get(address, "/").starts_with("HTTP/1.1 404"));
}

#[test]
fn a_hundred_at_once_and_some_that_say_nothing_all_get_the_whole_page() {
    let address = serve();
    // They hold their places until they are ended.
    let silent: Vec<_> = (0..10).map(|_| TcpStream::connect(address).unwrap()).collect();
    let lengths = thread::scope(|scope| {
        let scrapes: Vec<_> = (0..100).map(|_| scope.spawn(|| get(address, "/metrics").len())).collect();
        scrapes.into_iter().map(|scrape| scrape.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(lengths.iter().all(|length| *length > 4 << 20), "{lengths:?}");
    drop(silent);
}
