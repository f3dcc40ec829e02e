//! The kinds of faults: what each strikes, how long it lasts, and which go together.

use std::time::Duration;

use crate::harness::attack::Attack;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Cut,
    Silence,
    Falter,
    Flicker,
    BlackHole,
    Refuse,
    KillServer,
    KillLeader,
    KillMajority,
    KillAll,
    FreezeServer,
    FreezeLeader,
    Wipe,
    OldData,
    DeleteRoot,
    Storm,
    TooManyNodes,
    TooLargeNodes,
    OddNames,
    Acls,
    SlowLine,
    ShortRequests,
    FullHeap,
    FreezeSidecar,
    ExpireSession,
    KillSidecar,
    RestartSidecar,
    UpgradeSidecar,
    ClockJumps,
    Suspend,
    DeadAddress,
    DamageFile,
    RemoveFile,
    FullDisk,
    Garbage,
    SlowClients,
    Flood,
    Descriptors,
    Pipelining,
    Unread,
    Watches,
    Calls,
    HalfSent,
    CutUpstream,
    SilenceUpstream,
    KillMaster,
    FreezeMaster,
    FlapMaster,
    Crowd,
    WorkerKill,
    WorkerStop,
    WorkerHang,
    WorkerExit,
    RollWorkers,
    RollBrokenWorkers,
    AbandonWorkers,
}

/// What a fault strikes: two that overlap never strike the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Ensemble,
    Lines,
    /// Sources and lines, which no other fault may reach meanwhile.
    Quiet,
    Sidecar,
    /// At the register of a sidecar.
    Masters,
    /// Of the first sidecar.
    Workers,
    Upstream,
    /// So much that there is nothing beside it.
    All,
}

impl Kind {
    pub(crate) const ALL: [Kind; 56] = [
        Kind::Silence,
        Kind::Cut,
        Kind::KillLeader,
        Kind::KillSidecar,
        Kind::WorkerKill,
        Kind::RollWorkers,
        Kind::Flicker,
        Kind::Storm,
        Kind::TooManyNodes,
        Kind::TooLargeNodes,
        Kind::OddNames,
        Kind::Acls,
        Kind::SlowLine,
        Kind::ShortRequests,
        Kind::FullHeap,
        Kind::DeleteRoot,
        Kind::FreezeSidecar,
        Kind::Falter,
        Kind::BlackHole,
        Kind::Refuse,
        Kind::KillServer,
        Kind::KillMajority,
        Kind::KillAll,
        Kind::FreezeServer,
        Kind::FreezeLeader,
        Kind::Wipe,
        Kind::OldData,
        Kind::ExpireSession,
        Kind::RestartSidecar,
        Kind::UpgradeSidecar,
        Kind::ClockJumps,
        Kind::Suspend,
        Kind::DeadAddress,
        Kind::DamageFile,
        Kind::RemoveFile,
        Kind::FullDisk,
        Kind::Garbage,
        Kind::SlowClients,
        Kind::Flood,
        Kind::Descriptors,
        Kind::Pipelining,
        Kind::Unread,
        Kind::Watches,
        Kind::Calls,
        Kind::HalfSent,
        Kind::CutUpstream,
        Kind::SilenceUpstream,
        Kind::KillMaster,
        Kind::FreezeMaster,
        Kind::FlapMaster,
        Kind::Crowd,
        Kind::WorkerStop,
        Kind::WorkerHang,
        Kind::WorkerExit,
        Kind::RollBrokenWorkers,
        Kind::AbandonWorkers,
    ];

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| format!("{kind:?}").eq_ignore_ascii_case(name))
    }

    /// Whether both can strike at the same time.
    pub(crate) fn goes_with(self, other: Kind) -> bool {
        use Part::{All, Ensemble, Lines, Masters, Quiet, Sidecar, Workers};
        let never = |one, other| {
            matches!((one, other), (All, _) | (Sidecar, Masters | Workers) | (Quiet, Ensemble | Lines | Sidecar))
        };
        let (one, other) = (self.part(), other.part());
        one != other && !never(one, other) && !never(other, one)
    }

    pub(super) fn part(self) -> Part {
        match self {
            Kind::DeadAddress => Part::Quiet,
            Kind::Cut | Kind::Silence | Kind::Falter | Kind::Flicker => Part::Lines,
            Kind::BlackHole | Kind::Refuse => Part::Lines,
            Kind::KillServer | Kind::KillLeader | Kind::KillMajority | Kind::KillAll => Part::Ensemble,
            Kind::FreezeServer | Kind::FreezeLeader | Kind::Wipe | Kind::OldData => Part::Ensemble,
            Kind::DeleteRoot | Kind::Storm => Part::Ensemble,
            Kind::TooManyNodes | Kind::TooLargeNodes | Kind::OddNames | Kind::Acls => Part::Quiet,
            Kind::SlowLine | Kind::ShortRequests | Kind::FullHeap => Part::Quiet,
            Kind::Suspend => Part::All,
            Kind::FreezeSidecar | Kind::ExpireSession | Kind::KillSidecar | Kind::RestartSidecar => Part::Sidecar,
            Kind::UpgradeSidecar | Kind::ClockJumps | Kind::Garbage | Kind::SlowClients => Part::Sidecar,
            Kind::DamageFile | Kind::RemoveFile => Part::Sidecar,
            Kind::FullDisk | Kind::Flood | Kind::Descriptors => Part::Sidecar,
            _ if self.attack().is_some() => Part::Sidecar,
            Kind::CutUpstream | Kind::SilenceUpstream => Part::Upstream,
            // Their sidecar is no more.
            Kind::AbandonWorkers => Part::Sidecar,
            _ if self.is_of_workers() => Part::Workers,
            _ => Part::Masters,
        }
    }

    /// What another user does to a sidecar, if it is that.
    pub(super) fn attack(self) -> Option<Attack> {
        match self {
            Kind::Pipelining => Some(Attack::Subtree),
            Kind::Unread => Some(Attack::Unread),
            Kind::Watches => Some(Attack::Watches),
            Kind::Calls => Some(Attack::HungCalls),
            Kind::HalfSent => Some(Attack::HalfSent),
            _ => None,
        }
    }

    /// How long it lasts at least.
    pub(crate) fn lasts(self) -> Duration {
        Duration::from_millis(match self {
            Kind::Silence | Kind::SilenceUpstream | Kind::BlackHole => 13_000,
            Kind::Refuse | Kind::WorkerStop => 3_000,
            Kind::FullDisk | Kind::WorkerHang => 6_000,
            Kind::FreezeMaster => 9_000,
            Kind::ExpireSession => 9_000,
            Kind::FreezeServer | Kind::FreezeLeader | Kind::KillMajority | Kind::KillAll | Kind::Storm => 4_000,
            _ => 1_000,
        })
    }
}
