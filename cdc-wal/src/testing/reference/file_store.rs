//! Objects: a bucket without versions, and one with.

use std::collections::BTreeMap;

use cdc_core::{Cause, Op, Value};

use super::{Dice, Model, Seen, State, client, domain_name, looked, seen, with_old};
use crate::LogError;
use crate::kinds::file_store::{Bucket, FileStore, Object, Removed};
use crate::kinds::{KindTransaction, Old, SchemaChange};

/// An object's metadata, owned.
#[derive(Clone, Debug, PartialEq)]
struct Meta {
    marker: bool,
    size: u64,
    etag: Option<String>,
    sha256: Option<[u8; 32]>,
    content_type: Option<String>,
    modified_at: Option<i64>,
    tags: Vec<(String, String)>,
    attributes: Vec<(String, String)>,
}

/// By key and version; the version is empty in the bucket without.
type Objects_ = BTreeMap<(String, String), Meta>;

/// The data of a domain.
#[derive(Clone, Debug)]
pub struct Objects {
    plain: Bucket,
    versioned: Bucket,
    objects: [Objects_; 2],
    next_version: u64,
}

fn pairs(dice: &mut Dice) -> Vec<(String, String)> {
    (0..dice.below(3))
        .map(|n| (format!("name{n}"), dice.text()))
        .collect()
}

impl Meta {
    fn random(dice: &mut Dice) -> Self {
        let mut sha256 = [0; 32];
        sha256[..8].copy_from_slice(&dice.roll().to_le_bytes());
        Self {
            marker: false,
            size: dice.roll(),
            etag: dice.chance(70).then(|| dice.text()),
            sha256: dice.chance(70).then_some(sha256),
            content_type: dice.chance(70).then(|| "text/plain".to_owned()),
            modified_at: dice.chance(70).then(|| dice.below(1 << 40) as i64),
            tags: pairs(dice),
            attributes: pairs(dice),
        }
    }

    fn with<R>(&self, key: &str, version: &str, then: impl FnOnce(&Object<'_>) -> R) -> R {
        let borrow = |all: &[(String, String)]| -> Vec<(String, String)> { all.to_vec() };
        let (tags, attributes) = (borrow(&self.tags), borrow(&self.attributes));
        let tags: Vec<_> = tags.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let metadata: Vec<_> = attributes
            .iter()
            .map(|(n, v)| (n.as_str(), v.as_str()))
            .collect();
        then(&Object {
            key,
            version: (!version.is_empty()).then_some(version),
            delete_marker: self.marker,
            size: self.size,
            etag: self.etag.as_deref(),
            sha256: self.sha256,
            content_type: self.content_type.as_deref(),
            modified_at: self.modified_at,
            tags: &tags,
            metadata: &metadata,
        })
    }
}

impl Objects {
    fn gone(
        tx: &mut KindTransaction<FileStore>,
        dice: &mut Dice,
        bucket: &Bucket,
        (key, version): &(String, String),
        meta: &Meta,
    ) -> Result<Seen, LogError> {
        let (known, lifecycle) = (dice.chance(60), dice.chance(40));
        meta.with(key, version, |object| {
            let before = if known {
                Removed::Object(object)
            } else {
                Removed::Key {
                    key,
                    version: object.version,
                }
            };
            if lifecycle {
                tx.expire(bucket, before).map(drop)
            } else {
                tx.delete(bucket, before).map(drop)
            }
        })?;
        let cause = if lifecycle {
            Cause::Lifecycle
        } else {
            Cause::Client
        };
        Ok(if known {
            with_old(Op::Delete, cause)
        } else {
            seen(Op::Delete, cause)
        })
    }

    fn in_versioned(
        &mut self,
        tx: &mut KindTransaction<FileStore>,
        dice: &mut Dice,
    ) -> Result<Seen, LogError> {
        let (bucket, objects) = (&self.versioned, &mut self.objects[1]);
        let key = format!("k{}", dice.below(3));
        match dice.below(10) {
            0..4 => {
                self.next_version += 1;
                let (version, meta) = (format!("v{}", self.next_version), Meta::random(dice));
                meta.with(&key, &version, |object| {
                    tx.put(bucket, Old::Missing, object).map(drop)
                })?;
                objects.insert((key, version), meta);
                Ok(client(Op::Insert))
            }
            4..6 => {
                self.next_version += 1;
                let version = format!("v{}", self.next_version);
                let cause = if dice.chance(50) {
                    Cause::Lifecycle
                } else {
                    Cause::Client
                };
                tx.hide(bucket, &key, &version, Some(7), cause)?;
                let marker = Meta {
                    marker: true,
                    size: 0,
                    etag: None,
                    sha256: None,
                    content_type: None,
                    modified_at: Some(7),
                    tags: Vec::new(),
                    attributes: Vec::new(),
                };
                objects.insert((key, version), marker);
                Ok(seen(Op::Insert, cause))
            }
            6..8 => {
                // Tags of a version change.
                let Some((id, old)) = objects.iter_mut().find(|(_, meta)| !meta.marker) else {
                    return Ok(Vec::new());
                };
                let mut new = old.clone();
                new.tags = pairs(dice);
                let (key, version) = id;
                old.with(key, version, |before| {
                    new.with(key, version, |after| {
                        tx.put(bucket, Old::Known(before), after).map(drop)
                    })
                })?;
                *old = new;
                Ok(with_old(Op::Update, Cause::Client))
            }
            _ => {
                let Some((id, meta)) = objects.pop_first() else {
                    return Ok(Vec::new());
                };
                Self::gone(tx, dice, bucket, &id, &meta)
            }
        }
    }
}

impl Model for Objects {
    type Kind = FileStore;

    fn empty(domain: usize) -> Self {
        let tenant = domain_name("tenant", domain);
        Self {
            plain: Bucket::new(&tenant, "files"),
            versioned: Bucket::versioned(&tenant, "versions"),
            objects: Default::default(),
            next_version: 0,
        }
    }

    fn mutate(
        &mut self,
        tx: &mut KindTransaction<FileStore>,
        dice: &mut Dice,
    ) -> Result<Seen, LogError> {
        if dice.chance(50) {
            return self.in_versioned(tx, dice);
        }
        let (bucket, objects) = (&self.plain, &mut self.objects[0]);
        let id = (format!("k{}", dice.below(5)), String::new());
        let old = objects.get(&id).cloned();
        match (dice.below(10), old) {
            (0, _) => {
                tx.bucket_changed(bucket, SchemaChange::Drop)?;
                objects.clear();
                Ok(client(Op::Schema))
            }
            (1..4, Some(old)) => {
                objects.remove(&id);
                Self::gone(tx, dice, bucket, &id, &old)
            }
            (_, old) => {
                let new = Meta::random(dice);
                let unseen = dice.chance(30);
                let op = if unseen || old.is_some() {
                    Op::Update
                } else {
                    Op::Insert
                };
                new.with(&id.0, "", |after| match &old {
                    _ if unseen => tx.put(bucket, Old::Unknown, after).map(drop),
                    None => tx.put(bucket, Old::Missing, after).map(drop),
                    Some(old) => old.with(&id.0, "", |before| {
                        tx.put(bucket, Old::Known(before), after).map(drop)
                    }),
                })?;
                objects.insert(id, new);
                Ok(looked(op, unseen))
            }
        }
    }

    fn dump(&self, state: &mut State) {
        for (bucket, objects) in [
            (&self.plain, &self.objects[0]),
            (&self.versioned, &self.objects[1]),
        ] {
            for ((key, version), meta) in objects {
                let text = |text: &Option<String>| text.clone().map_or(Value::Null, Value::Text);
                let map = |all: &[(String, String)]| {
                    Value::Map(
                        all.iter()
                            .map(|(n, v)| (n.clone(), Value::Text(v.clone())))
                            .collect(),
                    )
                };
                let row = [
                    Value::Text(key.clone()),
                    text(&(!version.is_empty()).then(|| version.clone())),
                    Value::Bool(meta.marker),
                    Value::UInt(meta.size),
                    text(&meta.etag),
                    meta.sha256
                        .map_or(Value::Null, |hash| Value::Bytes(hash.to_vec())),
                    text(&meta.content_type),
                    meta.modified_at.map_or(Value::Null, Value::TimestampTz),
                    map(&meta.tags),
                    map(&meta.attributes),
                ];
                state.insert_values(bucket.relation(), &row);
            }
        }
    }

    fn load(&mut self, table: &str, row: &[Value]) {
        let text = |value: &Value| match value {
            Value::Text(text) => Some(text.clone()),
            _ => None,
        };
        let map = |value: &Value| match value {
            Value::Map(all) => all
                .iter()
                .filter_map(|(name, value)| Some((name.clone(), text(value)?)))
                .collect(),
            _ => Vec::new(),
        };
        let [
            key,
            version,
            Value::Bool(marker),
            Value::UInt(size),
            etag,
            hash,
            kind,
            at,
            tags,
            more,
        ] = row
        else {
            return;
        };
        let version = text(version).unwrap_or_default();
        if let Some(number) = version.strip_prefix('v').and_then(|n| n.parse().ok()) {
            self.next_version = self.next_version.max(number);
        }
        let meta = Meta {
            marker: *marker,
            size: *size,
            etag: text(etag),
            sha256: match hash {
                Value::Bytes(hash) => hash.as_slice().try_into().ok(),
                _ => None,
            },
            content_type: text(kind),
            modified_at: match at {
                Value::TimestampTz(at) => Some(*at),
                _ => None,
            },
            tags: map(tags),
            attributes: map(more),
        };
        let key = (text(key).unwrap_or_default(), version);
        self.objects[usize::from(table == "versions")].insert(key, meta);
    }
}
