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
pub struct Visible {
    select: Option<Arc<Selector>>,
    /// Who reads: what it made itself is shown as it wrote it.
    reader: Option<Arc<str>>,
}

impl Visible {
    /// Everything.
    pub const fn all() -> Self {
        Self { select: None, reader: None }
    }

    /// What this selects; everything without one.
    pub fn by(select: Option<Selector>) -> Self {
        Self { select: select.map(Arc::new), reader: None }
    }

    /// The same for a reader of this name, which is the `created_by` of what it makes.
    #[must_use]
    pub fn read_by(self, name: &str) -> Self {
        Self { reader: Some(name.into()), ..self }
    }

    /// What selects them; `None` for everything.
    pub fn select(&self) -> Option<&Selector> {
        self.select.as_deref()
    }

    /// Whether that is everything.
    pub fn is_all(&self) -> bool {
        self.select.is_none()
    }

    /// Whether a device with these labels is among them.
    pub fn sees(&self, labels: &Labels) -> bool {
        self.select.as_ref().is_none_or(|select| select.matches(labels))
    }

    /// Whether the reader made what has this `created_by`.
    pub fn is_own(&self, created_by: Option<&str>) -> bool {
        self.reader.as_deref().is_some_and(|reader| created_by == Some(reader))
    }
}
