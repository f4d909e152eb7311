//! Engines of objects in buckets: insert, update, delete, schema. Events hold an object's
//! metadata, never its content. Parts, aborted uploads and the collection of unused blobs are no
//! mutations: an object appears when its upload is complete.

use std::fmt;
use std::sync::Arc;

use cdc_core::row::RowWriter;
use cdc_core::{Cause, EngineKind, Op, Relation, RowImage};

use super::encoding::{bounded, image, invalid, relation, text_or_null, time_or_null};
use super::{KindLog, KindTransaction, Old, SchemaChange};
use crate::LogError;
use crate::format::change::{Part, Parts};

/// The kind of engine whose data are objects in buckets.
#[derive(Clone, Copy, Debug)]
pub enum FileStore {}

/// The log of an engine of objects.
pub type FileStoreLog = KindLog<FileStore>;

const COLUMNS: [(&str, &str); 10] = [
    ("key", "text"),
    ("version", "text"),
    ("delete_marker", "bool"),
    ("size", "uint64"),
    ("etag", "text"),
    ("sha256", "bytes"),
    ("content_type", "text"),
    ("modified_at", "timestamptz"),
    ("tags", "map"),
    ("metadata", "map"),
];

/// A bucket.
///
/// Columns: `key`, `version`, `delete_marker`, `size`, `etag`, `sha256`, `content_type`,
/// `modified_at`, `tags`, `metadata`. The key is `key`, with `version` if the bucket keeps
/// versions; then each version is a row of its own.
#[derive(Clone, Debug)]
pub struct Bucket {
    relation: Arc<Relation>,
}

impl Bucket {
    /// A bucket of a tenant that keeps one version of an object.
    pub fn new(tenant: &str, bucket: &str) -> Self {
        Self {
            relation: relation(EngineKind::FileStore, tenant, bucket, &COLUMNS, &[0]),
        }
    }

    /// A bucket that keeps versions of its objects.
    pub fn versioned(tenant: &str, bucket: &str) -> Self {
        Self {
            relation: relation(EngineKind::FileStore, tenant, bucket, &COLUMNS, &[0, 1]),
        }
    }

    /// The bucket as events have it.
    pub const fn relation(&self) -> &Arc<Relation> {
        &self.relation
    }

    /// An object as the row that events have of it.
    pub fn row(&self, object: &Object<'_>) -> RowImage {
        image(|row| write(row, object))
    }

    fn is_versioned(&self) -> bool {
        self.relation.key.len() == 2
    }

    fn check(&self, version: Option<&str>) -> Result<(), LogError> {
        if self.is_versioned() == version.is_some() {
            return Ok(());
        }
        Err(invalid(
            &self.relation,
            "an object of a bucket with versions has one, another has none",
        ))
    }
}

/// An object's metadata.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Object<'a> {
    /// Its key.
    pub key: &'a str,
    /// Its version, in a bucket that keeps versions.
    pub version: Option<&'a str>,
    /// True for the marker that hides older versions: all else is empty then.
    pub delete_marker: bool,
    /// Bytes of its content.
    pub size: u64,
    /// Its entity tag. That of an object uploaded in parts is no hash of the content.
    pub etag: Option<&'a str>,
    /// SHA-256 of its content.
    pub sha256: Option<[u8; 32]>,
    /// Its media type.
    pub content_type: Option<&'a str>,
    /// When it was written, microseconds since 1970-01-01T00:00:00Z.
    pub modified_at: Option<i64>,
    /// Tags, name and value.
    pub tags: &'a [(&'a str, &'a str)],
    /// Attributes the client gave it, name and value.
    pub metadata: &'a [(&'a str, &'a str)],
}

/// Prints sizes only: names and tags are row contents.
impl fmt::Debug for Object<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Object({} bytes of metadata)", self.len())
    }
}

impl Object<'_> {
    fn len(&self) -> usize {
        let pairs = self.tags.iter().chain(self.metadata);
        let texts = [self.version, self.etag, self.content_type];
        pairs
            .map(|(name, value)| name.len() + value.len())
            .sum::<usize>()
            + texts.into_iter().flatten().map(str::len).sum::<usize>()
            + self.key.len()
            + 64
    }
}

fn write(row: &mut RowWriter<'_>, object: &Object<'_>) {
    row.text(object.key);
    text_or_null(row, object.version);
    row.bool(object.delete_marker);
    row.uint(object.size);
    text_or_null(row, object.etag);
    match &object.sha256 {
        Some(hash) => row.bytes(hash),
        None => row.null(),
    }
    text_or_null(row, object.content_type);
    time_or_null(row, object.modified_at);
    for pairs in [object.tags, object.metadata] {
        row.map_with(|entries| {
            for (name, text) in pairs {
                entries.entry(name, |value| value.text(text));
            }
        });
    }
}

/// What the engine knows of an object that went away.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Removed<'a> {
    /// Its metadata.
    Object(&'a Object<'a>),
    /// Its key only, with its version in a bucket that keeps versions.
    Key {
        /// Its key.
        key: &'a str,
        /// Its version.
        version: Option<&'a str>,
    },
}

/// Prints which it is, not what.
impl fmt::Debug for Removed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Object(_) => "Object",
            Self::Key { .. } => "Key",
        })
    }
}

impl KindTransaction<FileStore> {
    /// An object was written (put, completed upload, copy), or its tags or metadata changed: an
    /// insert with [`Old::Missing`], else an update. In a bucket with versions a put makes a new
    /// version, which was missing before.
    ///
    /// # Errors
    /// [`LogErrorKind::Invalid`](crate::LogErrorKind::Invalid) for an object with a version in a
    /// bucket without, or the reverse; as for [`Transaction::change`](crate::Transaction::change).
    pub fn put(
        &mut self,
        bucket: &Bucket,
        before: Old<&Object<'_>>,
        after: &Object<'_>,
    ) -> Result<&mut Self, LogError> {
        let op = if before == Old::Missing {
            Op::Insert
        } else {
            Op::Update
        };
        self.put_as((op, Cause::Client), bucket, before.known(), after)
    }

    /// An object or a version was deleted for good.
    ///
    /// # Errors
    /// As for [`put`](Self::put).
    pub fn delete(&mut self, bucket: &Bucket, before: Removed<'_>) -> Result<&mut Self, LogError> {
        self.take_away(bucket, before, Cause::Client)
    }

    /// As [`delete`](Self::delete), by a lifecycle rule.
    ///
    /// # Errors
    /// As for [`put`](Self::put).
    pub fn expire(&mut self, bucket: &Bucket, before: Removed<'_>) -> Result<&mut Self, LogError> {
        self.take_away(bucket, before, Cause::Lifecycle)
    }

    /// A delete marker hides the object's versions: the insert of a version with `delete_marker`,
    /// by a client or a lifecycle rule.
    ///
    /// # Errors
    /// As for [`put`](Self::put); also if the bucket keeps no versions.
    pub fn hide(
        &mut self,
        bucket: &Bucket,
        key: &str,
        version: &str,
        modified_at: Option<i64>,
        cause: Cause,
    ) -> Result<&mut Self, LogError> {
        let marker = Object {
            key,
            version: Some(version),
            delete_marker: true,
            modified_at,
            ..Object::default()
        };
        self.put_as((Op::Insert, cause), bucket, None, &marker)
    }

    /// The bucket itself changed.
    ///
    /// # Errors
    /// As for [`put`](Self::put).
    pub fn bucket_changed(
        &mut self,
        bucket: &Bucket,
        change: SchemaChange<'_>,
    ) -> Result<&mut Self, LogError> {
        self.schema_change(&bucket.relation, change, |_| {})
    }

    fn put_as(
        &mut self,
        what: (Op, Cause),
        bucket: &Bucket,
        before: Option<&Object<'_>>,
        after: &Object<'_>,
    ) -> Result<&mut Self, LogError> {
        bucket.check(after.version)?;
        bounded(
            &bucket.relation,
            [before.map_or(0, Object::len), after.len()],
        )?;
        let parts = Parts {
            before: before.is_some(),
            after: true,
            meta: false,
        };
        self.record(what, &bucket.relation, parts, |part, row| {
            match (part, before) {
                (Part::Before, Some(before)) => write(row, before),
                _ => write(row, after),
            }
        })
    }

    fn take_away(
        &mut self,
        bucket: &Bucket,
        before: Removed<'_>,
        cause: Cause,
    ) -> Result<&mut Self, LogError> {
        let (length, version) = match before {
            Removed::Object(object) => (object.len(), object.version),
            Removed::Key { key, version } => (key.len() + version.map_or(0, str::len), version),
        };
        bucket.check(version)?;
        bounded(&bucket.relation, [length])?;
        let parts = Parts {
            before: true,
            ..Parts::default()
        };
        self.record((Op::Delete, cause), &bucket.relation, parts, |_, row| {
            let (key, version) = match before {
                Removed::Object(object) => return write(row, object),
                Removed::Key { key, version } => (key, version),
            };
            row.text(key);
            match version {
                Some(version) => row.text(version),
                None => row.unavailable(),
            }
            for _ in 2..COLUMNS.len() {
                row.unavailable();
            }
        })
    }
}
