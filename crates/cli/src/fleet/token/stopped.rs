//! The tokens of a hub that is stopped: its data folder is opened as the hub itself would, without a listener.

use std::path::Path;
use std::time::Duration;

use bellwire_hub::app::Hub;
use bellwire_hub::config::Config;
use bellwire_hub::store::{PageRequest, ReadFuture};
use bellwire_proto::limits::{HISTORY_S, PAGE_ITEMS_MAX};
use bellwire_proto::{CreatedToken, NewToken, Page, Problem, Timestamp, Token, TokenId};
use futures_util::{Stream, TryStreamExt, stream};

/// Settings that delete nothing: what the hub's own retention is, is not known here.
fn config(data_dir: &Path) -> Config {
    let mut config = Config::default();
    config.data_dir = data_dir.to_owned();
    config.shards = 1;
    config.history = Duration::from_secs(HISTORY_S.max);
    config
}

/// A hub without a listener.
pub(super) struct StoppedHub(Hub);

impl StoppedHub {
    /// `None` when a hub runs with this folder.
    pub(super) async fn open(data_dir: &Path) -> anyhow::Result<Option<Self>> {
        match Hub::open(config(data_dir)).await {
            Ok(hub) => Ok(Some(Self(hub))),
            Err(error) if error.is_in_use() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.0.driver().now()
    }

    pub(super) async fn create(&self, new: &NewToken) -> Result<CreatedToken, Problem> {
        self.0.driver().make_token(new.clone(), None).await
    }

    pub(super) async fn revoke(&self, token: TokenId) -> Result<(), Problem> {
        self.0.driver().revoke_token(token).await
    }

    pub(super) fn tokens(&self) -> impl Stream<Item = Result<Token, Problem>> + Send {
        let store = self.0.driver().store();
        all(move |page| store.tokens(page)).map_ok(|record| record.to_token())
    }

    /// The names of the schedules that were made without a token and are not paused for that.
    pub(super) async fn schedules_without_token(&self) -> Result<Vec<String>, Problem> {
        let store = self.0.driver().store();
        let schedules = all(move |page| store.schedules(None, page));
        let without_token = schedules.try_filter_map(async |schedule| {
            let acts = schedule.created_by.is_none() && schedule.reason.is_none();
            Ok(acts.then_some(schedule.plan.name))
        });
        without_token.try_collect().await
    }

    pub(super) async fn close(self) {
        self.0.close().await;
    }
}

/// All rows of a list, which is read page by page.
fn all<T: Send>(
    read: impl Fn(PageRequest) -> ReadFuture<Page<T>> + Send,
) -> impl Stream<Item = Result<T, Problem>> + Send {
    let request = |after| PageRequest { limit: PAGE_ITEMS_MAX, after };
    let pages = stream::try_unfold(Some(request(None)), move |page| {
        let reading = page.map(&read);
        async move {
            let Some(reading) = reading else { return Ok(None) };
            let Page { items, next } = reading.await.map_err(Problem::from)?;
            let next = next.and_then(|cursor| cursor.parse().ok());
            let rows = stream::iter(items.into_iter().map(Ok));
            Ok::<_, Problem>(Some((rows, next.map(|after| request(Some(after))))))
        }
    });
    pages.try_flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_hub_retains_is_not_deleted_by_making_a_token() {
        // The default was taken: a hub that retains a year lost what was older than a month.
        assert_eq!(config(Path::new("d")).history.as_secs(), HISTORY_S.max);
    }
}
