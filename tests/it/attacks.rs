//! Whatever one user does to the endpoint, a second one is answered.

use std::sync::Mutex;
use std::time::Duration;

use crate::harness::attack::{Attack, FULL_FORCE, play_role};
use crate::harness::master::{Scripted, map};
use crate::harness::{Roster, SOON, ensure, eventually, free_port, is_skipped_without_root};

/// How long an attack lasts, unless it is one of full force: `ROSTER_BIN=target/release/roster ATTACK_SECONDS=20`.
const LASTS: Duration = Duration::from_secs(2);

/// What the sidecar may grow by where its clients may have 32 MiB: the allocator keeps some of what was given back.
const MOST_GROWN: usize = 96 << 20;

/// What tests are told again as, by other users.
#[test]
#[ignore = "the tests start it themselves"]
fn as_another_user() {
    play_role();
}

/// A sidecar with something to ask for, and a service whose master never answers.
struct Target {
    roster: Roster,
    /// Another sidecar of the same machine, whom nobody attacks.
    beside: Roster,
    _masters: Vec<Scripted>,
}

/// Two attacks at once are more than one.
static ALONE: Mutex<()> = Mutex::new(());

const MASTERS: usize = 40;
const TOKEN: &str = "register-center-token-2024";

impl Target {
    fn new(settings: &str) -> Self {
        let many: String = (0..20_000).map(|number| format!("\"/many/{number}\" = \"{:0>100}\"\n", number)).collect();
        let mut roster = Roster::prepare_file("roster.sock", &format!("\"/a\" = \"one\"\n{many}"));
        let port = free_port();
        roster.configure(
            "listen = \"\"",
            &format!("listen = \"127.0.0.1:{port}\"\ntokens = \"token\"\nping_interval = \"1h\""),
        );
        roster.write("token", TOKEN);
        roster.configure("[thrift]", &format!("[thrift]\nmode = \"0666\"\n{settings}"));
        roster.run();
        roster.open_to_all();
        roster.becomes("live");
        let fat = || map([("version", "1.0.0".into()), ("fat", "x".repeat(15_000).into())]);
        let join = |_| Scripted::join(port, TOKEN, &[("hung", map([])), ("fat", fat())]);
        let masters = (0..MASTERS).map(join).collect();
        eventually("the masters are there", SOON, || {
            let count = roster.status().counters["masters"];
            ensure(count == MASTERS as i64, count)
        });
        Self { roster, beside: beside(), _masters: masters }
    }

    /// All requests of the second user are answered while the first attacks, and the sidecar lives.
    fn withstands(&self, attack: Attack) {
        let lasts =
            std::env::var(FULL_FORCE).map_or(LASTS, |seconds| Duration::from_secs(seconds.parse().expect("seconds")));
        let before = self.roster.memory();
        let came = || self.roster.status().counters["connections"];
        let (came_before, mut asked) = (came(), 0);
        let adversary = self.roster.attack(attack);
        // Each question is by a connection of its own.
        eventually("the attack begins", SOON, || {
            asked += 1;
            let others = came() - came_before - asked;
            ensure(others > 10, format!("{attack:?}: nobody attacks, {others} connections came"))
        });
        std::thread::sleep(lasts / 4);
        let (suffered, beside) = std::thread::scope(|scope| {
            let beside = &self.beside;
            let beside = scope.spawn(move || beside.suffers(lasts));
            (self.roster.suffers(lasts), beside.join().expect("it is asked"))
        });
        let (most, overloaded) = (self.roster.memory(), self.roster.status().counters["overloaded"]);
        drop(adversary);
        println!("{attack:?}: {suffered:?}, memory {} -> {} MiB, overloaded {overloaded}", before >> 20, most >> 20);
        println!("{attack:?}, of a sidecar beside it: {beside:?}");
        assert!(suffered.failed == 0 && suffered.answered > 0, "{attack:?}: {suffered:?}");
    }
}

/// What is slow of this one too is so because the attack takes the processor, which any program may.
fn beside() -> Roster {
    let mut roster = Roster::prepare_file("roster.sock", "\"/a\" = \"one\"\n");
    roster.configure("[thrift]", "[thrift]\nmode = \"0666\"");
    roster.run();
    roster.open_to_all();
    roster.becomes("live");
    roster
}

#[test]
fn a_second_user_is_answered_whatever_the_first_one_does() {
    if is_skipped_without_root() {
        return;
    }
    let _alone = ALONE.lock();
    let target = Target::new("");
    println!("nobody attacks: {:?}", target.roster.suffers(LASTS));
    let wanted = std::env::var("ATTACKS").unwrap_or_default();
    for attack in Attack::ALL {
        if wanted.is_empty() || wanted.split(',').any(|name| format!("{attack:?}") == name) {
            target.withstands(attack);
        }
    }
}

#[test]
fn who_takes_too_much_is_told_so_and_nobody_else_is() {
    if is_skipped_without_root() {
        return;
    }
    let _alone = ALONE.lock();
    let target = Target::new("max_memory = \"32MiB\"\nmax_watch_paths = 4096\nmax_calls = 64\n");
    let before = target.roster.memory();
    for attack in [Attack::Unread, Attack::Watches, Attack::HungCalls, Attack::LargeCalls, Attack::HalfSent] {
        let overloaded = || target.roster.status().counters["overloaded"];
        let (told, adversary) = (overloaded(), target.roster.attack(attack));
        eventually("somebody is told", SOON * 2, || ensure(overloaded() > told, format!("{attack:?}")));
        let suffered = target.roster.suffers(Duration::from_millis(500));
        drop(adversary);
        assert!(suffered.failed == 0 && suffered.answered > 0, "{attack:?}: {suffered:?}");
        let grown = target.roster.memory().saturating_sub(before);
        assert!(grown < MOST_GROWN, "{attack:?}: grew by {grown} bytes");
    }
    // What the gone have sent is answered first, with pages that take a sidecar with debug assertions long.
    eventually("nothing is charged for who is gone", SOON * 8, || {
        let counters = target.roster.status().counters;
        ensure(counters["memoryCharged"] <= 64 * 1024, format!("{counters:?}"))
    });
}
