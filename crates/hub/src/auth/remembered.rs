//! What was looked up of tokens, so that their next request costs no read of the store.
//!
//! Bounded: what was not used for a while is forgotten. A device's token is remembered by no more than a request of a device needs
//! (80 bytes), because a fleet has as many of them as devices; what else has a token (admins, operators, JWTs) is shared with
//! its requests. There are several stripes with a lock each, which is held for one look at one of them.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bellwire_proto::limits::{DEVICE_TOKENS_REMEMBERED_MAX, TOKENS_REMEMBERED_MAX};
use bellwire_proto::{DeviceId, Role, Timestamp, TokenId};

use super::grant::Grant;

const STRIPES: usize = 16;

#[derive(Debug, Default)]
pub(super) struct Remembered {
    stripes: [Mutex<Stripe>; STRIPES],
    /// Seeded anew at each start, so that no client can choose tokens that share a stripe.
    hasher: RandomState,
    /// Rises before and after each change of a token is carried out here.
    changes: AtomicU64,
}

#[derive(Debug, Default)]
struct Stripe {
    devices: Generations<DeviceGrant>,
    others: Generations<Arc<Grant>>,
}

/// What is remembered of a device's token.
#[derive(Debug, Clone)]
struct DeviceGrant {
    digest: [u8; 32],
    device: DeviceId,
    /// Milliseconds since the epoch; the greatest number for never.
    expires_at_ms: u64,
    used_minute: u64,
}

/// Two generations: what is used in a generation is kept for the next, what is not is forgotten with it.
#[derive(Debug)]
struct Generations<V> {
    young: HashMap<TokenId, V>,
    old: HashMap<TokenId, V>,
}

/// How many changes had been carried out when a token was read: what was read is current while there is no later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AsOf(u64);

impl Remembered {
    /// The latest change. To be read before what is to be compared with it.
    pub(super) fn latest(&self) -> AsOf {
        AsOf(self.changes.load(Ordering::Acquire))
    }

    /// What is remembered of a token.
    pub(super) fn find(&self, id: TokenId) -> Option<Arc<Grant>> {
        let mut stripe = self.stripe(id);
        if let Some(device) = stripe.devices.find(id, DEVICE_TOKENS_REMEMBERED_MAX) {
            let grant = device.to_grant(id);
            drop(stripe);
            return Some(Arc::new(grant));
        }
        stripe.others.find(id, TOKENS_REMEMBERED_MAX).cloned()
    }

    /// Remembers what was read after `read`, unless something has changed since.
    pub(super) fn add(&self, grant: &Arc<Grant>, read: AsOf) {
        let mut stripe = self.stripe(grant.id);
        // Under the lock: a change that is not counted yet forgets it afterwards.
        if self.latest() != read {
            return;
        }
        match (&grant.role, grant.key()) {
            // Each of its requests looks whether it was approved meanwhile.
            (Role::Device(_), None) if grant.pending => {}
            (Role::Device(device), None) => {
                let device = DeviceGrant::of(grant, device.clone());
                stripe.devices.add(grant.id, device, DEVICE_TOKENS_REMEMBERED_MAX);
            }
            _ => stripe.others.add(grant.id, grant.clone(), TOKENS_REMEMBERED_MAX),
        }
    }

    /// Its use in this minute was noted.
    pub(super) fn used(&self, id: TokenId, minute: u64) {
        if let Some(device) = self.stripe(id).devices.find(id, DEVICE_TOKENS_REMEMBERED_MAX) {
            device.used_minute = minute;
        }
    }

    /// Carries a change out: when this returns, nothing that it concerns is remembered, and nothing that was read before it
    /// will be.
    pub(super) fn change(&self, forget: impl FnOnce(&Self)) {
        // Before, so that what is being read now is not remembered afterwards; and after, so that a request that got it from here
        // in between finds that it has changed.
        self.changes.fetch_add(1, Ordering::AcqRel);
        forget(self);
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn forget(&self, token: TokenId) {
        let mut stripe = self.stripe(token);
        stripe.devices.forget(token);
        stripe.others.forget(token);
    }

    pub(super) fn forget_device(&self, device: &DeviceId) {
        for stripe in &self.stripes {
            let mut stripe = lock(stripe);
            stripe.devices.retain(|remembered| remembered.device != *device);
            stripe.others.retain(|grant| grant.role.device() != Some(device));
        }
    }

    fn stripe(&self, id: TokenId) -> MutexGuard<'_, Stripe> {
        let at = self.hasher.hash_one(id) as usize % STRIPES;
        lock(self.stripes.get(at).unwrap_or(&self.stripes[0]))
    }
}

fn lock(stripe: &Mutex<Stripe>) -> MutexGuard<'_, Stripe> {
    // Nothing panics while it is held.
    stripe.lock().unwrap_or_else(PoisonError::into_inner)
}

impl DeviceGrant {
    fn of(grant: &Grant, device: DeviceId) -> Self {
        Self {
            digest: grant.digest,
            device,
            expires_at_ms: grant.expires_at.map_or(u64::MAX, Timestamp::unix_ms),
            used_minute: grant.used_minute.load(Ordering::Relaxed),
        }
    }

    fn to_grant(&self, id: TokenId) -> Grant {
        let expires = self.expires_at_ms != u64::MAX;
        let expires_at = expires.then(|| Timestamp::from_unix_ms(self.expires_at_ms));
        Grant::of_device(id, self.digest, self.device.clone(), expires_at, self.used_minute)
    }
}

impl<V> Default for Generations<V> {
    fn default() -> Self {
        Self { young: HashMap::new(), old: HashMap::new() }
    }
}

impl<V> Generations<V> {
    /// Of `all_max` in all stripes.
    fn find(&mut self, id: TokenId, all_max: usize) -> Option<&mut V> {
        if !self.young.contains_key(&id) {
            let found = self.old.remove(&id)?;
            self.add(id, found, all_max);
        }
        self.young.get_mut(&id)
    }

    fn add(&mut self, id: TokenId, value: V, all_max: usize) {
        if self.young.len() >= all_max / STRIPES / 2 {
            // The older ones are forgotten, and their memory is used again.
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
        }
        self.young.insert(id, value);
    }

    fn forget(&mut self, id: TokenId) {
        self.young.remove(&id);
        self.old.remove(&id);
    }

    fn retain(&mut self, keep: impl Fn(&V) -> bool) {
        self.young.retain(|_, value| keep(value));
        self.old.retain(|_, value| keep(value));
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::grant;
    use super::*;

    /// How many are remembered.
    fn len(remembered: &Remembered) -> usize {
        let of = |stripe| {
            let stripe = lock(stripe);
            stripe.devices.len() + stripe.others.len()
        };
        remembered.stripes.iter().map(of).sum()
    }

    #[test]
    fn what_is_remembered_of_tokens_is_bounded_and_what_is_used_stays() {
        for (of_devices, most) in
            [(true, DEVICE_TOKENS_REMEMBERED_MAX), (false, TOKENS_REMEMBERED_MAX)]
        {
            let role = |n: u32| match of_devices {
                true => Role::Device(format!("d{n}").parse().unwrap()),
                false => Role::Metrics,
            };
            let remembered = Remembered::default();
            let used = grant(0, role(0));
            remembered.add(&used, remembered.latest());
            for n in 1..5 * most as u32 {
                remembered.add(&grant(n, role(n)), remembered.latest());
                assert!(remembered.find(used.id).is_some(), "after {n}");
            }
            assert!(len(&remembered) <= most);
        }
    }

    #[test]
    fn a_device_token_is_remembered_as_it_is_and_its_use_is_news_once_a_minute() {
        let remembered = Remembered::default();
        let read = grant(1, Role::Device("d".parse().unwrap()));
        remembered.add(&read, remembered.latest());
        let found = || remembered.find(read.id).unwrap();
        assert!(found().is(&read) && found().works(Timestamp::from_unix_ms(0)));
        assert_eq!((&found().role, found().expires_at), (&read.role, read.expires_at));
        assert!(found().used_in(7), "what is found is not a use yet");
        remembered.used(read.id, 7);
        assert!(!found().used_in(7) && found().used_in(8));
    }

    #[test]
    fn what_was_read_before_a_change_is_not_remembered_after_it_nor_the_latest() {
        let remembered = Remembered::default();
        let read = remembered.latest();
        let token = grant(1, Role::Metrics);
        remembered.change(|remembered| {
            // In between: found, though the change is under way.
            remembered.add(&token, remembered.latest());
            assert!(remembered.find(token.id).is_some());
            assert_ne!(remembered.latest(), read);
            let between = remembered.latest();
            remembered.forget(token.id);
            remembered.add(&token, read);
            assert_eq!(between, remembered.latest());
        });
        assert!(remembered.find(token.id).is_none());
    }

    #[test]
    fn a_device_token_takes_no_more_memory_than_a_slot_of_80_bytes() {
        assert!(size_of::<(TokenId, DeviceGrant)>() <= 80);
    }
}
