//! A master that offers one service. Beside the demonstration (`make run`), in a second terminal:
//!
//! ```text
//! REGISTER_TOKEN=register-center-token-2024 cargo run --example master -- 127.0.0.1:8010
//! roster call greeter.hello name=Ada
//! roster call greeter.count to=3
//! ```

use std::time::Duration;

use roster_master::{Config, Master, MethodError, RegisterAddr, Service};
use serde::Deserialize;

#[derive(Deserialize)]
struct Hello {
    name: String,
}

#[derive(Deserialize)]
struct Count {
    to: u64,
}

fn greeter() -> Service {
    Service::new("greeter")
        .metadata("version", "1.2.0")
        .method("hello", |Hello { name }| async move {
            if name.is_empty() {
                return Err(MethodError::new("nobody to greet").class("InvalidArgument").code(1));
            }
            Ok(format!("Hello, {name}"))
        })
        .stream("count", |Count { to }, values| async move {
            for number in 1..=to {
                values.send(number).await?;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            Ok(())
        })
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let registers: Vec<String> = std::env::args().skip(1).collect();
    if registers.is_empty() {
        return Err("usage: REGISTER_TOKEN=… master HOST:PORT|unix:///PATH…".into());
    }
    let master = Master::start(Config::new(std::env::var("REGISTER_TOKEN").map_err(|_| "set REGISTER_TOKEN")?));
    let mut events = master.events();
    master.offer(greeter());
    for register in registers {
        master.connect(register.parse::<RegisterAddr>()?);
    }
    while let Some(event) = tokio::select! {
        event = events.next() => event,
        _ = tokio::signal::ctrl_c() => None,
    } {
        println!("{event:?}");
    }
    master.stop().await;
    Ok(())
}
