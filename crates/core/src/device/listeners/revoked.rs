//! Streams and polls whose token does not work any more end. Contract, section 6, "Tokens".

use bellwire_proto::TokenId;
use bellwire_proto::stream::ByeReason;

use crate::context::unauthenticated;
use crate::delivery::Carriers;
use crate::device::Device;
use crate::ids::SessionId;
use crate::txn::TxnBuilder;

impl Device {
    /// Ends one stream, whichever it is; what it alone had carried is queued again.
    pub(crate) fn end_stream(&mut self, session: SessionId, txn: &mut TxnBuilder<'_>) {
        let now = txn.now;
        if self.listeners.stream.as_ref().is_some_and(|stream| stream.session == session) {
            self.seen_until_now(now);
            self.listeners.stream = None;
            txn.close(session, ByeReason::Revoked);
            self.lost(Carriers::STREAM, now);
        }
        if self.listeners.unconfirmed.take_if(|stream| stream.session == session).is_some() {
            txn.close(session, ByeReason::Revoked);
            self.lost(Carriers::UNCONFIRMED, now);
        }
    }

    /// Ends the streams that listen with this token.
    pub(crate) fn end_streams_of(&mut self, token: TokenId, txn: &mut TxnBuilder<'_>) {
        let open = [&self.listeners.stream, &self.listeners.unconfirmed];
        for session in open.map(|stream| stream.as_ref().map(|stream| stream.session)) {
            let with = session.and_then(|session| txn.ctx.sessions.get(&session)?.token);
            if let Some(session) = session.filter(|_| with == Some(token)) {
                self.end_stream(session, txn);
            }
        }
    }

    /// Refuses the poll that waits with this token, or without one.
    pub(crate) fn refuse_poll(&mut self, of: Option<TokenId>, txn: &mut TxnBuilder<'_>) {
        if let Some(poll) = self.listeners.poll.take_if(|poll| poll.token == of) {
            self.listeners.polled_at = None;
            self.lost(Carriers::POLL, txn.now);
            txn.ctx.waiting.remove(&poll.request);
            txn.refuse(poll.request, unauthenticated());
        }
    }
}
