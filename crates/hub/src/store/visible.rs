//! Which part of the fleet a read may show.

use std::sync::Arc;

use bellwire_proto::{Labels, Selector};

/// The devices that exist for a reader: all, or those that a selector matches at the moment of the read. What concerns
/// other devices alone is not there.
///
/// ```
/// use bellwire_hub::store::Visible;
/// let lyon = Visible::by(Some("site=lyon".parse()?));
/// assert!(!lyon.sees(&Default::default()) && Visible::all().sees(&Default::default()));
/// # Ok::<(), bellwire_proto::selector::InvalidSelector>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Visible(Option<Arc<Selector>>);

impl Visible {
    /// Everything.
    pub const fn all() -> Self {
        Self(None)
    }

    /// What this selects; everything without one.
    pub fn by(select: Option<Selector>) -> Self {
        Self(select.map(Arc::new))
    }

    /// What selects them; `None` for everything.
    pub fn select(&self) -> Option<&Selector> {
        self.0.as_deref()
    }

    /// Whether that is everything.
    pub fn is_all(&self) -> bool {
        self.0.is_none()
    }

    /// Whether a device with these labels is among them.
    pub fn sees(&self, labels: &Labels) -> bool {
        self.0.as_ref().is_none_or(|select| select.matches(labels))
    }
}
