//! What becomes of connections that the sidecar accepts and passes on, whoever takes them.

use std::io::{Read, Write};
use std::net::Shutdown;

use super::*;
use crate::task::stuck::lingering;
use crate::worker::config::Accept;
use crate::worker::sockets::Sockets;

type Client = UnixStream;

fn connection() -> (Connection, Client) {
    let (client, socket) = Client::pair().expect("a pair");
    let socket = SharedSocket::connection(socket);
    (Connection { socket, about: b"{}".to_vec(), client: 0, since: Instant::now() }, client)
}

/// A taker, and its process's end of the socket.
fn taker(pid: i32) -> (Taker, OwnedFd) {
    let (socket, theirs) = pair().expect("a pair");
    (Taker::new(pid, Arc::new(SharedSocket::connection(socket)), None, Arc::default(), oneshot::channel().0), theirs)
}

#[tokio::test]
async fn a_connection_is_handed_on_at_once_where_there_is_room_and_none_waits() {
    let passing = Passing::new(Balance::RoundRobin, 4, &Tasks::new().0.stop_signal());
    let (clients, come): (Vec<Client>, Vec<Connection>) =
        (0..3).map(|_| connection()).map(|(it, client)| (client, it)).unzip();
    let mut come = come.into_iter();
    let mut take = || passing.take("web", come.next().expect("three of them"));
    take().await;
    let (taker, _open) = taker(1);
    passing.state().takers.push(taker);
    take().await;
    assert_eq!(passing.state().waiting.len(), 2, "behind the one that waited");
    passing.state().waiting.clear();
    take().await;
    assert_eq!((passing.state().waiting.len(), clients.len()), (0, 3));
}

#[tokio::test]
async fn who_has_closed_its_socket_takes_no_more_and_keeps_nobody_from_it() {
    let mut state = State::default();
    let [(gone, closed), (lives, open)] = [taker(1), taker(2)];
    drop(closed);
    state.takers.extend([gone, lives]);
    let (passed, mut client) = connection();
    state.pass(&passed, "web", Balance::RoundRobin).expect("the other takes it");
    assert_eq!(state.takers.iter().map(|taker| taker.pid).collect::<Vec<_>>(), [2]);
    drop((state, open, passed));
    // When its holder is gone, so is the connection.
    assert_eq!(client.read(&mut [0; 1]).expect("an end"), 0);
}

#[tokio::test]
async fn one_that_is_busy_is_handed_no_other_where_another_has_done_with_its_own() {
    let mut state = State::default();
    let [(one, first), (two, second)] = [taker(1), taker(2)];
    state.takers.extend([one, two]);
    let (passed, _client) = connection();
    let pass = |state: &mut State, reports: &[&OwnedFd]| {
        for report in reports {
            nix::unistd::write(report, b"1").expect("it is open");
        }
        state.pass(&passed, "web", Balance::Fewest).expect("there is room");
        state.takers.iter().map(|taker| taker.under_way).collect::<Vec<_>>()
    };
    // Without reports, one after the other.
    assert_eq!([(); 4].map(|()| pass(&mut state, &[])).last(), Some(&vec![2, 2]));
    assert_eq!(pass(&mut state, &[&second]), [2, 2]);
    assert_eq!(pass(&mut state, &[&second, &second]), [2, 1]);
    assert_eq!(pass(&mut state, &[]), [2, 2]);
    assert_eq!(pass(&mut state, &[]), [2, 3], "the one that has gone on");
    assert_eq!(pass(&mut state, &[&first]), [2, 3]);
    // A process that reports more than it was handed has none, and does not affect others.
    assert_eq!(pass(&mut state, &[&second; 4]), [2, 1]);
    assert_eq!(pass(&mut state, &[&second; 4]), [2, 1]);
}

#[tokio::test]
async fn a_shortage_of_the_machine_takes_nobody_out_and_room_is_found_later() {
    let (taker, _theirs) = taker(1);
    let mut state = State { takers: vec![taker], ..State::default() };
    let (mut passed, _client) = connection();
    // An error that is not about the process: the kernel cannot pass a closed descriptor.
    let socket = std::mem::replace(&mut passed.socket, SharedSocket::connection(no_descriptor()));
    let short = state.pass(&passed, "web", Balance::RoundRobin).expect_err("it cannot be passed");
    assert!(matches!(&short, NotPassed::Short(error) if error.raw_os_error() == Some(libc::EBADF)), "{short:?}");
    std::mem::forget(std::mem::replace(&mut passed.socket, socket));
    state.pass(&passed, "web", Balance::RoundRobin).expect("it is still there");
}

/// A closed one.
#[allow(unsafe_code)]
fn no_descriptor() -> OwnedFd {
    // Safety: nobody uses or closes it.
    unsafe { std::os::fd::FromRawFd::from_raw_fd(i32::MAX) }
}

#[tokio::test]
async fn a_connection_is_its_takers_users_own() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: it takes root");
        return;
    }
    let (mut taker, _theirs) = taker(1);
    taker.identity = Some(Identity { uid: 1, gid: 1, groups: Vec::new() });
    let mut state = State { takers: vec![taker], ..State::default() };
    let (passed, _client) = connection();
    state.pass(&passed, "web", Balance::RoundRobin).expect("it takes it");
    let owner = nix::sys::stat::fstat(&passed.socket).expect("it is open");
    assert_eq!((owner.st_uid, owner.st_gid), (1, 1));
}

#[tokio::test]
async fn connections_whose_client_has_gone_make_room() {
    let passing = Passing::new(Balance::RoundRobin, 4, &Tasks::new().0.stop_signal());
    let mut clients: Vec<Client> = Vec::new();
    let come = async || {
        let (connection, client) = connection();
        passing.take("web", connection).await;
        client
    };
    for _ in 0..6 {
        clients.push(come().await);
    }
    assert_eq!(passing.counts(), (4, 2));
    // One is gone, one has sent a request, and one waits for an answer.
    clients[1].write_all(b"GET /").expect("it is open");
    drop(clients.drain(..2));
    clients[0].write_all(b"GET /").expect("it is open");
    passing.state().looked = None;
    passing.state().let_go_of_gone(LOOK_INTERVAL, Connection::is_gone);
    assert_eq!(passing.counts(), (3, 2), "what was asked may still be answered");
    clients.push(come().await);
    passing.state().looked = None;
    clients.push(come().await);
    assert_eq!(passing.counts(), (4, 2), "where there is no room, only who is there waits");
    clients[0].shutdown(Shutdown::Write).expect("it is open");
    passing.state().let_go_of_gone(LOOK_INTERVAL, Connection::is_gone);
    assert_eq!(passing.counts(), (4, 2));
}

#[tokio::test]
async fn a_client_that_has_sent_a_lingering_socket_blocks_nobody_when_its_connection_is_closed() {
    let passing = Passing::new(Balance::RoundRobin, 4, &Tasks::new().0.stop_signal());
    let (mut connection, client) = connection();
    let (sent, _peer) = lingering();
    let rights = [sent.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&rights)];
    sendmsg::<()>(client.as_raw_fd(), &[IoSlice::new(b"x")], &rights, MsgFlags::empty(), None).expect("sent");
    drop(sent);
    connection.since = Instant::now().checked_sub(MAX_WAIT).expect("the machine runs for longer");
    passing.take("web", connection).await;
    let (done, ended) = std::sync::mpsc::channel();
    let closing = passing.clone();
    std::thread::spawn(move || done.send(closing.state().let_go_of_old()));
    assert_eq!(ended.recv_timeout(Duration::from_secs(60)), Ok(1));
    assert_eq!(passing.counts().0, 0);
}

#[tokio::test]
async fn no_other_is_taken_while_as_many_are_open_as_may_wait() {
    let passing = Passing::new(Balance::RoundRobin, 1, &Tasks::new().0.stop_signal());
    let ((first, _waits), (second, mut refused), (third, _next)) = (connection(), connection(), connection());
    passing.take("web", first).await;
    let still_open = passing.descriptors.clone().try_acquire_owned().expect("for the next one");
    let mut third = pin!(passing.take("web", third));
    assert!(futures::poll!(&mut third).is_pending(), "one that was refused is not closed yet");
    drop(still_open);
    third.await;
    passing.take("web", second).await;
    assert_eq!(passing.counts(), (1, 2));
    refused.set_nonblocking(false).expect("a socket");
    assert_eq!(refused.read(&mut [0; 1]).expect("it is closed"), 0);
}

#[tokio::test]
async fn a_socket_whose_file_is_removed_is_accepted_from_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("run/app.sock");
    let config = Config { listen: vec![format!("unix://{}", path.display())], ..Config::default() };
    let config = Config { accept: Accept::Sidecar, ..config };
    let (tasks, metrics) = (Tasks::new().0, Arc::default());
    let sockets = Sockets::at_once(&config).expect("a socket");
    let passing = Passing::new(Balance::RoundRobin, 4, &tasks.stop_signal());
    for removed in [&path, path.parent().expect("a folder")] {
        let bound = sockets.get(&config, &metrics).await.expect("a socket");
        passing.start(&config, bound.listeners(), &metrics, &tasks);
        match removed.is_dir() {
            true => std::fs::remove_dir_all(removed).expect("it is there"),
            false => std::fs::remove_file(removed).expect("it is there"),
        }
        sockets.get(&config, &metrics).await.expect("another launch is not in its way");
        let taken = passing.counts().0;
        let (until, mut client) = (Instant::now() + Duration::from_secs(60), None);
        while passing.counts().0 == taken {
            assert!(Instant::now() < until, "it is accepted from again");
            client = client.or_else(|| UnixStream::connect(&path).ok());
            sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_ever_and_the_refused_are_counted() {
    let passing = Passing::new(Balance::RoundRobin, 4, &Tasks::new().0.stop_signal());
    let (connection, _client) = connection();
    passing.take("web", connection).await;
    let serving = tokio::spawn({
        let passing = passing.clone();
        async move { passing.pass_all("web").await }
    });
    sleep(MAX_WAIT - 2 * LOOK_INTERVAL).await;
    assert_eq!(passing.counts(), (1, 0));
    sleep(4 * LOOK_INTERVAL).await;
    assert_eq!(passing.counts(), (0, 1));
    serving.abort();
}
