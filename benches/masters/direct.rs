//! A direct connection to a master: a register that does nothing but ask one master the same again and again.

use std::fmt;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use rmpv::Value;
use roster::tunnel::php::Closures;
use roster::tunnel::{Bounds, Message};
use uuid::Uuid;

use crate::harness::master::{field, packed, text};
use crate::load;

/// A connection over which one master is asked.
pub(super) struct Direct {
    stream: TcpStream,
    received: Vec<u8>,
    question: Box<dyn Fn(String) -> Message + Send>,
    /// What must come before the end, or with it.
    answer: Value,
}

impl Direct {
    /// Waits for the master, which must give this answer to the question in a stream of this uuid.
    pub(super) fn accept(
        listener: &TcpListener,
        question: impl Fn(String) -> Message + Send + 'static,
        answer: Value,
    ) -> Self {
        let (stream, _) = listener.accept().expect("a master");
        stream.set_nodelay(true).expect("an option");
        stream.set_read_timeout(Some(load::PATIENCE)).expect("an option");
        let mut direct = Self { stream, received: Vec::new(), question: Box::new(question), answer };
        assert_eq!(text(&direct.hear(), "cmd"), "auth");
        direct.say(Message::AuthSuccess { message: "welcome".into() });
        direct
    }

    /// The same with a master in PHP, over the one stream that it is given.
    pub(super) fn accept_php(
        listener: &TcpListener,
        service: &'static str,
        method: &'static str,
        arguments: Value,
    ) -> Self {
        let trunk = Uuid::new_v4().to_string();
        let words = Value::Array(vec!["call".into(), 1.into(), service.into(), method.into(), arguments.clone()]);
        let (uuid, answer) =
            (trunk.clone(), Value::Array(vec!["last".into(), 1.into(), Value::Binary(packed(&arguments))]));
        let question = move |_| Message::Data { uuid: uuid.clone(), data: words.clone() };
        let mut direct = Self::accept(listener, question, answer);
        let serialized = Closures { key: None, bounds: Bounds::DEFAULT }.master();
        direct.say(Message::Callback { uuid: trunk, serialized });
        direct
    }

    /// The same as the package's own register has it: a closure for each call, which runs the package's `execute`.
    pub(super) fn accept_php_closures(
        listener: &TcpListener,
        service: &'static str,
        method: &'static str,
        answer: Value,
    ) -> Self {
        let serialized = closure(service, method);
        let question = move |uuid| Message::Callback { uuid, serialized: serialized.clone() };
        Self::accept(listener, question, answer)
    }

    /// Asks, and fails unless the answer is the right one.
    pub(super) fn ask(&mut self) {
        self.say((self.question)(Uuid::new_v4().to_string()));
        let mut given = Value::Nil;
        loop {
            let message = self.hear();
            match text(&message, "cmd").as_str() {
                // Of PHP's, the last value is the end as well.
                "data" if *field(&message, "data") == self.answer && self.answer[0].as_str() == Some("last") => return,
                "data" => given = field(&message, "data").clone(),
                "end" => break,
                _ => panic!("another answer: {message}"),
            }
        }
        assert_eq!(given, self.answer);
    }

    fn say(&mut self, message: Message) {
        self.stream.write_all(&message.encode()).expect("the master reads");
    }

    fn hear(&mut self) -> Value {
        loop {
            let mut rest = self.received.as_slice();
            if let Ok(message) = rmpv::decode::read_value(&mut rest) {
                self.received = rest.to_vec();
                return message;
            }
            let mut some = [0; 4096];
            match self.stream.read(&mut some).expect("an answer in time") {
                0 => panic!("the master has gone"),
                count => self.received.extend(&some[..count]),
            }
        }
    }
}

/// A closure that calls the method with the argument `x`, as PHP's `serialize()` writes it.
fn closure(service: &str, method: &str) -> Vec<u8> {
    const SERIALIZERS: &str = "Laravel\\SerializableClosure\\Serializers\\Native";
    const CLOSURE: &str = "Laravel\\SerializableClosure\\SerializableClosure";
    let text = |text: &str| format!("s:{}:\"{text}\";", text.len());
    let object = |class: &str, fields: usize| format!("O:{}:\"{class}\":{fields}:", class.len());
    let function = "function ($stream) use ($service, $method) { \
         $stream->end(\\ReactphpX\\RegisterCenter\\ServiceRegistry::execute($service, $method, ['x'])); return $stream; }";
    let used = [text("service"), text(service), text("method"), text(method)].concat();
    let fields = [
        format!("{}a:2:{{{used}}}", text("use")),
        text("function") + &text(function),
        text("scope") + "N;",
        text("this") + "N;",
        text("self") + &text(&"0".repeat(32)),
    ];
    let native = format!("{}{{{}}}", object(SERIALIZERS, 5), fields.concat());
    format!("{}{{{}{native}}}", object(CLOSURE, 1), text("serializable")).into_bytes()
}

impl fmt::Debug for Direct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Direct").field("stream", &self.stream).finish_non_exhaustive()
    }
}
