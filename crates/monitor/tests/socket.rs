//! The socket's file: whose it is, who may open it, and what becomes of it.

#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

#[expect(dead_code, reason = "each file of tests looks at a part of it")]
mod machine;
#[expect(dead_code, reason = "each file of tests looks at a part of it")]
mod support;

use std::{
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::Path,
    sync::Arc,
};

use machine::Machine;
use support::Bench;
use whimbrel_monitor::{BindError, Events, Server};

fn bind(path: &Path) -> Result<Server, BindError> {
    let events = Events::new();
    Server::bind(path, Arc::new(Machine::new(events.clone())), events)
}

#[test]
fn only_the_owner_may_connect_and_the_file_goes_with_the_server() {
    let mut bench = Bench::new();
    assert_eq!(std::fs::metadata(&bench.path).unwrap().permissions().mode() & 0o777, 0o600);
    bench.server.take().unwrap().shutdown();
    assert!(!bench.path.exists());
}

#[test]
fn a_socket_that_a_process_left_behind_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("qmp");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let server = bind(&path).unwrap();
    assert!(std::os::unix::net::UnixStream::connect(&path).is_ok());
    server.shutdown();
}

#[test]
fn a_socket_in_use_is_refused_and_works_on() {
    let bench = Bench::new();
    let error = bind(&bench.path).unwrap_err();
    assert!(matches!(error, BindError::InUse { .. }), "{error:?}");
    bench.plain().assert_works();
}

#[test]
fn a_file_that_is_no_socket_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes");
    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(bind(&path), Err(BindError::NotASocket { .. })));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn a_file_of_another_server_is_not_removed() {
    let mut bench = Bench::new();
    std::fs::remove_file(&bench.path).unwrap();
    let other = bind(&bench.path).unwrap();
    bench.server.take().unwrap().shutdown();
    assert!(bench.path.exists());
    other.shutdown();
}

#[test]
fn of_many_that_find_a_dead_socket_at_once_one_gets_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("qmp");
    drop(UnixListener::bind(&path).unwrap());
    let servers: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| bind(&path))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(servers.iter().filter(|server| server.is_ok()).count(), 1);
}

#[test]
fn a_path_that_cannot_be_is_an_error_that_names_it() {
    for path in ["/nonexistent/folder/qmp".to_owned(), format!("/tmp/{}", "x".repeat(200))] {
        let error = bind(Path::new(&path)).unwrap_err();
        assert!(matches!(error, BindError::Io { .. }) && error.to_string().contains(&path), "{error:?}");
    }
}

#[test]
fn a_thread_that_cannot_be_confined_does_not_serve() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("qmp");
    let events = Events::new();
    let machine = Arc::new(Machine::new(events.clone()));
    let outcome = Server::bind_confined(&path, machine, events, || Err(std::io::Error::other("no filter")));
    assert!(matches!(outcome, Err(BindError::Start { .. })));
    assert!(!path.exists());
}
