//! The middleboxes of a simulated network.

/// What stands between device and hub.
#[derive(Debug, Clone)]
pub(super) enum Middlebox {
    /// Nothing but distance, one way.
    Pass { latency_ms: u64 },
    /// Releases a response when it has ended.
    FullBuffer,
    /// Releases each write with the next one.
    OneBehind,
    /// The head, and then one byte a second.
    Trickle,
    /// Ends each response in order at this age.
    MaxAge { ms: u64 },
    /// Ends each response after this time without a byte.
    IdleLimit { ms: u64 },
    /// Answers 504 without a first byte within this time; and buffers streams, or passes them on.
    FirstByte { ms: u64, streams: bool },
    /// Answers 403 to streams.
    DenyStream,
    /// Forgets all connections this often.
    SilentLoss { every_ms: u64 },
    /// A sign-in page answers for this time; what was open is cut.
    Portal { from: u64, to: u64 },
    /// Nothing passes for this time.
    Down { from: u64, to: u64, silent: bool },
    /// What is open brings nothing for this time, and new connections fail after 5 s: a proxy whose process has stopped.
    Frozen { from: u64, to: u64 },
    /// Another one of them every ten minutes.
    Changing,
}

impl Middlebox {
    /// The one that stands there now.
    pub(super) fn now(&self, now: u64, seed: u64) -> Self {
        let Self::Changing = self else { return self.clone() };
        let choices = [
            Self::Pass { latency_ms: 20 },
            Self::FullBuffer,
            Self::OneBehind,
            Self::Trickle,
            Self::MaxAge { ms: 20_000 },
            Self::IdleLimit { ms: 12_000 },
            Self::FirstByte { ms: 8_000, streams: false },
            Self::DenyStream,
            Self::Pass { latency_ms: 400 },
            Self::Down { from: 0, to: 60_000, silent: seed.is_multiple_of(2) },
            Self::Portal { from: 0, to: 60_000 },
        ];
        let (period, at) = (now / 600_000, now % 600_000);
        let pick =
            (period.wrapping_mul(7).wrapping_add(seed.wrapping_mul(13))) % choices.len() as u64;
        match choices.into_iter().nth(pick as usize) {
            Some(Self::Down { to, silent, .. }) if at < to => {
                let from = now - at;
                Self::Down { from, to: from + to, silent }
            }
            Some(Self::Portal { to, .. }) if at < to => {
                Self::Portal { from: now - at, to: now - at + to }
            }
            Some(Self::Down { .. } | Self::Portal { .. }) | None => Self::Pass { latency_ms: 20 },
            Some(other) => other,
        }
    }

    pub(super) fn latency_ms(&self) -> u64 {
        match self {
            Self::Pass { latency_ms } => *latency_ms,
            _ => 20,
        }
    }

    pub(super) fn is_down(&self, now: u64) -> bool {
        matches!(self, Self::Down { from, to, .. } | Self::Frozen { from, to } if (*from..*to).contains(&now))
    }

    pub(super) fn is_silent(&self) -> bool {
        matches!(self, Self::Down { silent: true, .. } | Self::Frozen { .. })
    }

    pub(super) fn is_portal(&self, now: u64) -> bool {
        matches!(self, Self::Portal { from, to } if (*from..*to).contains(&now))
    }
}
