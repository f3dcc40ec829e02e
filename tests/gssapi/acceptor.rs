//! A server that has the key of its principal, and then says what a test wants.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;

use libgssapi::context::{SecurityContext, ServerCtx};
use libgssapi::credential::{Cred, CredUsage};

use crate::at_localhost;
use crate::realm::Realm;

/// What it offers when both have proven who they are, in digits: `1` is no security layer. `-` before them: as it is,
/// not wrapped as from this server.
const OFFER: &str = "ROSTER_TEST_OFFER";

/// The process of one: the library takes the key from where its environment says.
#[derive(Debug)]
pub(crate) struct Acceptor {
    child: Child,
    address: String,
}

impl Acceptor {
    pub(crate) fn start(realm: &Realm, offer: &str) -> Self {
        let mut child = realm.knowing(Command::new(std::env::current_exe().expect("this program")));
        child.env("KRB5_KTNAME", realm.path("zookeeper.keytab")).env(OFFER, offer);
        child.args(["--ignored", "--exact", "--nocapture", "acceptor::is_played"]).stdin(Stdio::null());
        let mut child = child.stdout(Stdio::piped()).spawn().expect("it starts");
        let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines().map_while(Result::ok);
        let address = lines.find_map(|line| line.strip_prefix("at ").map(at_localhost)).expect("an address");
        Self { child, address }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "it is the other side of a test"]
fn is_played() {
    let offer = std::env::var(OFFER).expect("an offer");
    let listener = listen();
    println!("\nat {}", listener.local_addr().expect("an address"));
    for stream in listener.incoming().flatten() {
        let mut context = ServerCtx::new(Some(Cred::acquire(None, None, CredUsage::Accept, None).expect("its key")));
        let _ = answer(stream, |token| {
            if !context.is_complete() {
                return context.step(token, None).expect("a ticket for it").expect("its proof").to_vec();
            }
            match offer.strip_prefix('-') {
                Some(offer) => digits(offer),
                None => context.wrap(false, &digits(&offer)).expect("wrapped").to_vec(),
            }
        });
    }
}

fn digits(text: &str) -> Vec<u8> {
    text.bytes().map(|digit| digit - b'0').collect()
}

fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("a port")
}

/// A server that gives a session, and then answers each proof by SASL with this token.
pub(crate) fn answering(token: Vec<u8>) -> String {
    let listener = listen();
    let address = listener.local_addr().expect("an address").to_string();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let token = token.clone();
            thread::spawn(move || answer(stream, |_| token.clone()));
        }
    });
    at_localhost(&address)
}

/// Gives a session, and answers tokens.
fn answer(mut stream: TcpStream, mut answer: impl FnMut(&[u8]) -> Vec<u8>) -> std::io::Result<()> {
    const SESSION: [&[u8]; 5] = [&[0; 4], &[0, 0, 0x27, 0x10], &[0, 0, 0, 0, 0, 0, 0, 7], &[0, 0, 0, 16], &[0; 16]];
    /// Before the token are its length, the number and the kind of the request.
    const BEFORE: usize = 12;
    let frame = |body: Vec<u8>| [&(body.len() as u32).to_be_bytes()[..], &body].concat();
    read_frame(&mut stream)?;
    stream.write_all(&frame(SESSION.concat()))?;
    loop {
        let request = read_frame(&mut stream)?;
        let token = answer(request.get(BEFORE..).unwrap_or_default());
        let length = (token.len() as u32).to_be_bytes();
        stream.write_all(&frame([&request[..4], &[0; 12], &length, &token].concat()))?;
    }
}

fn read_frame(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut body = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut body).map(|()| body)
}
