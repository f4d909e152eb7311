//! Engines of Markdown documents in folders: insert, update, delete; a move is an update whose
//! key changed.

use std::fmt;
use std::sync::Arc;

use cdc_core::row::RowWriter;
use cdc_core::{Cause, EngineKind, Op, Relation, RowImage};

use super::encoding::{bounded, image, json_or_null, relation, text_or_null, texts};
use super::{KindLog, KindTransaction, Old, same};
use crate::LogError;
use crate::format::change::{Part, Parts};

/// The kind of engine whose data are Markdown documents.
#[derive(Clone, Copy, Debug)]
pub enum Markdown {}

/// The log of an engine of Markdown documents.
pub type MarkdownLog = KindLog<Markdown>;

/// What identifies a document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Identity {
    /// Its path.
    #[default]
    Path,
    /// An id that stays when it moves. The key is id and path, so that a move shows the old one.
    Id,
}

/// A folder of a space: the first part of a document's path, or whatever the engine files
/// documents under.
///
/// Columns: `id` (null without one), `path`, `front_matter` (JSON text), `body`, `sections` (a list
/// of heading paths).
#[derive(Clone, Debug)]
pub struct Folder {
    relation: Arc<Relation>,
}

impl Folder {
    /// A folder of a space.
    pub fn new(space: &str, folder: &str, identity: Identity) -> Self {
        let columns = [
            ("id", "text"),
            ("path", "text"),
            ("front_matter", "json"),
            ("body", "text"),
            ("sections", "text[]"),
        ];
        let key: &[u16] = match identity {
            Identity::Path => &[1],
            Identity::Id => &[0, 1],
        };
        Self {
            relation: relation(EngineKind::Markdown, space, folder, &columns, key),
        }
    }

    /// The folder as events have it.
    pub const fn relation(&self) -> &Arc<Relation> {
        &self.relation
    }

    /// A document as the row that events have of it.
    pub fn row(&self, document: &Document<'_>) -> RowImage {
        image(|row| write(row, document))
    }
}

/// A document.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Document<'a> {
    /// Its id, if the engine has one.
    pub id: Option<&'a str>,
    /// Its path within the space.
    pub path: &'a str,
    /// Its front matter, parsed, as JSON text.
    pub front_matter: Option<&'a str>,
    /// Its text behind the front matter.
    pub body: &'a str,
    /// Its sections, each as the path of its heading (`Guide/Install`), in order.
    pub sections: &'a [&'a str],
}

/// Prints its length: documents are row contents.
impl fmt::Debug for Document<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Document({} bytes)", self.len())
    }
}

impl<'a> Document<'a> {
    /// A document without id and front matter.
    pub const fn new(path: &'a str, body: &'a str, sections: &'a [&'a str]) -> Self {
        Self {
            id: None,
            path,
            front_matter: None,
            body,
            sections,
        }
    }

    /// The same at another path.
    #[must_use]
    pub const fn with_path(self, path: &'a str) -> Self {
        Self { path, ..self }
    }

    /// The same with another text.
    #[must_use]
    pub const fn with_body(self, body: &'a str) -> Self {
        Self { body, ..self }
    }
}

impl Document<'_> {
    fn len(&self) -> usize {
        let texts = [self.id, Some(self.path), self.front_matter, Some(self.body)];
        let texts = texts.into_iter().flatten();
        texts
            .chain(self.sections.iter().copied())
            .map(|text| text.len() + 8)
            .sum()
    }
}

/// Which sections an edit touched, as paths of headings: `meta.sections`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sections<'a> {
    /// New ones.
    pub added: &'a [&'a str],
    /// Those whose text changed.
    pub changed: &'a [&'a str],
    /// Those that are gone.
    pub removed: &'a [&'a str],
}

fn write(row: &mut RowWriter<'_>, document: &Document<'_>) {
    text_or_null(row, document.id);
    row.text(document.path);
    json_or_null(row, document.front_matter);
    row.text(document.body);
    texts(row, document.sections.iter().copied());
}

impl<'a> Sections<'a> {
    /// The text of these changed, none came or went.
    pub const fn changed(changed: &'a [&'a str]) -> Self {
        Self {
            added: &[],
            changed,
            removed: &[],
        }
    }
}

impl KindTransaction<Markdown> {
    /// A document appeared.
    ///
    /// # Errors
    /// As for [`Transaction::change`](crate::Transaction::change).
    pub fn create(
        &mut self,
        folder: &Folder,
        document: &Document<'_>,
    ) -> Result<&mut Self, LogError> {
        let sections = Sections::default();
        self.write_document(Op::Insert, folder, None, document, sections, None)
    }

    /// A document was edited in place: its path is the old one.
    ///
    /// # Errors
    /// As for [`create`](Self::create).
    pub fn edit(
        &mut self,
        folder: &Folder,
        before: Old<&Document<'_>>,
        after: &Document<'_>,
        sections: Sections<'_>,
    ) -> Result<&mut Self, LogError> {
        let op = if before == Old::Missing {
            Op::Insert
        } else {
            Op::Update
        };
        self.write_document(op, folder, before.known(), after, sections, None)
    }

    /// A document moved, and may have been edited too: one update in the folder it is in now, with
    /// the old path in `before` and in the event's `old_key`. If the folder is another one,
    /// `meta.old_table` is where it was; a filter for either folder matches.
    ///
    /// # Errors
    /// As for [`create`](Self::create).
    pub fn rename(
        &mut self,
        (from, before): (&Folder, &Document<'_>),
        (to, after): (&Folder, &Document<'_>),
    ) -> Result<&mut Self, LogError> {
        let left = (!same(&from.relation, &to.relation)).then_some(&*from.relation.table);
        let sections = Sections::default();
        self.write_document(Op::Update, to, Some(before), after, sections, left)
    }

    /// A document went away.
    ///
    /// # Errors
    /// As for [`create`](Self::create).
    pub fn delete(
        &mut self,
        folder: &Folder,
        before: &Document<'_>,
    ) -> Result<&mut Self, LogError> {
        bounded(&folder.relation, [before.len()])?;
        let parts = Parts {
            before: true,
            ..Parts::default()
        };
        let what = (Op::Delete, Cause::Client);
        self.record(what, &folder.relation, parts, |_, row| write(row, before))
    }

    fn write_document(
        &mut self,
        op: Op,
        folder: &Folder,
        before: Option<&Document<'_>>,
        after: &Document<'_>,
        sections: Sections<'_>,
        left: Option<&str>,
    ) -> Result<&mut Self, LogError> {
        bounded(
            &folder.relation,
            [before.map_or(0, Document::len), after.len()],
        )?;
        let lists = [
            ("added", sections.added),
            ("changed", sections.changed),
            ("removed", sections.removed),
        ];
        let touched = lists.iter().any(|(_, list)| !list.is_empty());
        let parts = Parts {
            before: before.is_some(),
            after: true,
            meta: touched || left.is_some(),
        };
        self.record(
            (op, Cause::Client),
            &folder.relation,
            parts,
            |part, row| match (part, before) {
                (Part::Before, Some(before)) => write(row, before),
                (Part::Before | Part::After, _) => write(row, after),
                (Part::Meta, _) => {
                    if touched {
                        row.text("sections");
                        row.map_with(|map| {
                            for (name, list) in lists {
                                if !list.is_empty() {
                                    map.entry(name, |value| texts(value, list.iter().copied()));
                                }
                            }
                        });
                    }
                    if let Some(left) = left {
                        row.text("old_table");
                        row.text(left);
                    }
                }
            },
        )
    }
}
