//! The sources that a cache is made of, in the order in which they are read: nothing of another is kept, and what two of them hold is the
//! first one's.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use super::IntakeOptions;
use crate::cache::{CacheError, FrameWriter, SeriesId};
use crate::keys::{PathKey, SiteSecret};
use crate::public::DataSet;

/// Where images are read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listed {
    /// A folder, an archive, or a file of DICOM.
    Dicom(PathBuf),
    /// A public data set, as it was downloaded.
    Public(DataSet, PathBuf),
}

impl Listed {
    /// What names it in a cache, however it is spelled.
    fn key(&self, secret: &SiteSecret) -> io::Result<PathKey> {
        Ok(match self {
            Self::Dicom(path) => dicom_key(secret, &path.canonicalize()?),
            Self::Public(dataset, folder) => public_key(secret, *dataset, &folder.canonicalize()?),
        })
    }
}

pub(super) fn dicom_key(secret: &SiteSecret, root: &Path) -> PathKey {
    PathKey::of(secret, root)
}

pub(crate) fn public_key(secret: &SiteSecret, dataset: DataSet, root: &Path) -> PathKey {
    let mut named = OsString::from(format!("{}:", dataset.name()));
    named.push(root);
    PathKey::of(secret, Path::new(&named))
}

/// The keys of all sources in their order; none where there is no list, or where one of them is not to be found just now.
pub(crate) struct Order(Option<Vec<PathKey>>);

impl Order {
    pub(crate) fn of(options: &IntakeOptions) -> Self {
        let keys = |listed: &Vec<Listed>| listed.iter().map(|one| one.key(&options.secret)).collect::<io::Result<_>>();
        Self(options.listed.as_ref().and_then(|listed| keys(listed).ok()))
    }

    /// Forgets what a cache holds of sources that are not listed: of a folder that was named by mistake, or taken off the list.
    pub(crate) fn drop_others(&self, writer: &mut FrameWriter) -> Result<(), CacheError> {
        let Some(keys) = &self.0 else { return Ok(()) };
        let others: Vec<SeriesId> = writer.latest().keys().filter(|id| !keys.contains(&id.0)).copied().collect();
        if others.is_empty() {
            return Ok(());
        }
        others.into_iter().try_for_each(|id| writer.remove(id))?;
        writer.commit()
    }

    /// Whether what another source holds stands for the same in this one: where there is an order, of those that were read before it. What is
    /// said of others may be from before their files went.
    pub(super) fn stands_for(&self, another: PathKey, own: PathKey) -> bool {
        let Some(keys) = &self.0 else { return another != own };
        let place = |key| keys.iter().position(|listed| *listed == key);
        another != own && place(another).zip(place(own)).is_some_and(|(another, own)| another < own)
    }
}
