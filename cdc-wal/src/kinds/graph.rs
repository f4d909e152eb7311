//! Engines of nodes and edges: insert, update, delete. A node is in the table of its first label,
//! an edge in that of its type; a filter matches a node by any of its labels.

use std::fmt;
use std::sync::Arc;

use cdc_core::row::RowWriter;
use cdc_core::{Cause, Column, EngineKind, Op, Relation, RowImage, Value};

use super::encoding::{bounded, image, invalid, texts};
use super::{KindLog, KindTransaction, Old};
use crate::LogError;
use crate::format::change::{Part, Parts};

/// The kind of engine whose data are nodes and edges.
#[derive(Clone, Copy, Debug)]
pub enum Graph {}

/// The log of an engine of nodes and edges.
pub type GraphLog = KindLog<Graph>;

/// Properties by name. Values are typed; `key properties` of a label or type stand in columns of
/// their own as well.
pub type Properties<'a> = &'a [(&'a str, Value)];

/// The first label of nodes.
///
/// Columns: `id` (the element id), one for each key property, `labels`, `properties`. The key is
/// `id` and the key properties.
#[derive(Clone, Debug)]
pub struct Label {
    relation: Arc<Relation>,
}

/// The type of edges.
///
/// Columns: `id`, one for each key property, `start` and `end` (each a map of `id`, `labels`,
/// `keys`), `properties`. The key is `id` and the key properties.
#[derive(Clone, Debug)]
pub struct EdgeType {
    relation: Arc<Relation>,
}

fn shape(graph: &str, name: &str, keys: &[&str], rest: &[(&str, &str)]) -> Arc<Relation> {
    let keys = &keys[..keys.len().min(KEY_PROPERTIES_MAX)];
    let columns = std::iter::once(("id", "text"))
        .chain(keys.iter().map(|key| (*key, "any")))
        .chain(rest.iter().copied())
        .map(|(name, kind)| Column::new(name, kind))
        .collect();
    let key = (0..=u16::try_from(keys.len()).unwrap_or(u16::MAX)).collect();
    Arc::new(Relation::new(EngineKind::Graph, graph, name, columns, key))
}

/// Most key properties of a label or type; further ones are properties like others.
pub const KEY_PROPERTIES_MAX: usize = 64;

impl Label {
    /// A label of a graph, with the properties its nodes are known by (those of a uniqueness or
    /// key constraint).
    pub fn new(graph: &str, label: &str, key_properties: &[&str]) -> Self {
        let rest = [("labels", "text[]"), ("properties", "map")];
        Self {
            relation: shape(graph, label, key_properties, &rest),
        }
    }

    /// The label as events have it.
    pub const fn relation(&self) -> &Arc<Relation> {
        &self.relation
    }

    /// A node as the row that events have of it.
    pub fn row(&self, node: &Node<'_>) -> RowImage {
        image(|row| write_node(&self.relation, row, node))
    }
}

impl EdgeType {
    /// A type of a graph, with the properties its edges are known by.
    pub fn new(graph: &str, edge_type: &str, key_properties: &[&str]) -> Self {
        let rest = [("start", "map"), ("end", "map"), ("properties", "map")];
        Self {
            relation: shape(graph, edge_type, key_properties, &rest),
        }
    }

    /// The type as events have it.
    pub const fn relation(&self) -> &Arc<Relation> {
        &self.relation
    }

    /// An edge as the row that events have of it.
    pub fn row(&self, edge: &Edge<'_>) -> RowImage {
        image(|row| write_edge(&self.relation, row, edge))
    }
}

/// A node.
#[derive(Clone, Copy)]
pub struct Node<'a> {
    /// Its element id, which is never given to another one.
    pub id: &'a str,
    /// Its labels; the first one names its table.
    pub labels: &'a [&'a str],
    /// Its properties.
    pub properties: Properties<'a>,
}

/// One end of an edge.
#[derive(Clone, Copy)]
pub struct End<'a> {
    /// The node's element id.
    pub id: &'a str,
    /// Its labels.
    pub labels: &'a [&'a str],
    /// Its key properties.
    pub keys: Properties<'a>,
}

/// An edge. It carries both ends, so that a consumer needs no other event to place it.
#[derive(Clone, Copy)]
pub struct Edge<'a> {
    /// Its element id.
    pub id: &'a str,
    /// Where it begins.
    pub start: End<'a>,
    /// Where it ends.
    pub end: End<'a>,
    /// Its properties.
    pub properties: Properties<'a>,
}

impl<'a> Node<'a> {
    /// A node.
    pub const fn new(id: &'a str, labels: &'a [&'a str], properties: Properties<'a>) -> Self {
        Self {
            id,
            labels,
            properties,
        }
    }

    /// The node as an end of an edge, with these of its properties to know it by.
    pub const fn end(&self, keys: Properties<'a>) -> End<'a> {
        End {
            id: self.id,
            labels: self.labels,
            keys,
        }
    }
}

impl<'a> Edge<'a> {
    /// An edge.
    pub const fn new(
        id: &'a str,
        start: End<'a>,
        end: End<'a>,
        properties: Properties<'a>,
    ) -> Self {
        Self {
            id,
            start,
            end,
            properties,
        }
    }
}

/// Prints counts only: properties are row contents.
impl fmt::Debug for Node<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Node({} properties)", self.properties.len())
    }
}

/// As for [`Node`].
impl fmt::Debug for End<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "End({} keys)", self.keys.len())
    }
}

/// As for [`Node`].
impl fmt::Debug for Edge<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Edge({} properties)", self.properties.len())
    }
}

fn write_id_and_keys(
    relation: &Relation,
    row: &mut RowWriter<'_>,
    id: &str,
    properties: Properties<'_>,
) {
    row.text(id);
    for column in relation.columns.iter().take(relation.key.len()).skip(1) {
        let known = properties.iter().find(|(name, _)| *name == &*column.name);
        match known {
            Some((_, value)) => row.value(value),
            None => row.null(),
        }
    }
}

fn write_properties(row: &mut RowWriter<'_>, properties: Properties<'_>) {
    row.map(properties.iter().map(|(name, value)| (*name, value)));
}

fn write_node(relation: &Relation, row: &mut RowWriter<'_>, node: &Node<'_>) {
    write_id_and_keys(relation, row, node.id, node.properties);
    texts(row, node.labels.iter().copied());
    write_properties(row, node.properties);
}

fn write_edge(relation: &Relation, row: &mut RowWriter<'_>, edge: &Edge<'_>) {
    write_id_and_keys(relation, row, edge.id, edge.properties);
    for end in [&edge.start, &edge.end] {
        row.map_with(|map| {
            map.entry("id", |value| value.text(end.id));
            map.entry("labels", |value| texts(value, end.labels.iter().copied()));
            map.entry("keys", |value| write_properties(value, end.keys));
        });
    }
    write_properties(row, edge.properties);
}

/// A bound of what a value takes, without encoding it.
fn value_len(value: &Value) -> usize {
    8 + match value {
        Value::Decimal(text) | Value::Text(text) | Value::Json(text) => text.len(),
        Value::Bytes(bytes) => bytes.len(),
        Value::Array(items) => items.iter().map(value_len).sum(),
        Value::Map(entries) => entries
            .iter()
            .map(|(k, v)| k.len() + 4 + value_len(v))
            .sum(),
        Value::Vector(elements) => elements.len() * 4,
        _ => 16,
    }
}

fn properties_len(properties: Properties<'_>) -> usize {
    // Key properties stand there twice.
    let all = properties
        .iter()
        .map(|(name, value)| name.len() + value_len(value));
    2 * all.sum::<usize>()
}

fn labels_len(labels: &[&str]) -> usize {
    labels.iter().map(|label| label.len() + 5).sum()
}

impl Node<'_> {
    fn len(&self) -> usize {
        self.id.len() + labels_len(self.labels) + properties_len(self.properties)
    }

    fn check(&self, label: &Label) -> Result<(), LogError> {
        if self.labels.first() == Some(&&*label.relation.table) {
            return Ok(());
        }
        Err(invalid(
            &label.relation,
            "the node's first label is another one; give the handle of its first label",
        ))
    }
}

impl Edge<'_> {
    fn len(&self) -> usize {
        let ends = [&self.start, &self.end];
        let ends = ends.map(|end| end.id.len() + labels_len(end.labels) + properties_len(end.keys));
        self.id.len() + ends.iter().sum::<usize>() + properties_len(self.properties)
    }
}

impl KindTransaction<Graph> {
    /// A node appeared.
    ///
    /// # Errors
    /// [`LogErrorKind::Invalid`](crate::LogErrorKind::Invalid) if `label` is not the node's first
    /// one; as for [`Transaction::change`](crate::Transaction::change).
    pub fn create_node(&mut self, label: &Label, node: &Node<'_>) -> Result<&mut Self, LogError> {
        self.node((Op::Insert, Cause::Client), label, None, Some(node))
    }

    /// A node's labels or properties changed. `label` is that of its first label now; if it was
    /// another one before, `meta.old_table` says which.
    ///
    /// [`Old::Unknown`] says that the first label and the key properties are what they were: the
    /// event then names no other row, and a consumer would keep the old one for ever. An engine
    /// that cannot tell reads the old node.
    ///
    /// # Errors
    /// As for [`create_node`](Self::create_node).
    pub fn update_node(
        &mut self,
        label: &Label,
        before: Old<&Node<'_>>,
        after: &Node<'_>,
    ) -> Result<&mut Self, LogError> {
        let op = if matches!(before, Old::Missing) {
            Op::Insert
        } else {
            Op::Update
        };
        self.node((op, Cause::Client), label, before.known(), Some(after))
    }

    /// A node without edges went away.
    ///
    /// # Errors
    /// As for [`create_node`](Self::create_node).
    pub fn delete_node(&mut self, label: &Label, before: &Node<'_>) -> Result<&mut Self, LogError> {
        self.node((Op::Delete, Cause::Client), label, Some(before), None)
    }

    /// A node went away with its edges: these first, each with the cause `cascade`, so that no
    /// consumer ever sees an edge without its end.
    ///
    /// # Errors
    /// As for [`create_node`](Self::create_node). If an edge is refused, those before it are
    /// recorded: abort.
    pub fn detach_delete<'e>(
        &mut self,
        label: &Label,
        before: &Node<'_>,
        edges: impl IntoIterator<Item = (&'e EdgeType, Edge<'e>)>,
    ) -> Result<&mut Self, LogError> {
        before.check(label)?;
        for (edge_type, edge) in edges {
            self.edge((Op::Delete, Cause::Cascade), edge_type, Some(&edge), None)?;
        }
        self.delete_node(label, before)
    }

    /// An edge appeared.
    ///
    /// # Errors
    /// As for [`Transaction::change`](crate::Transaction::change).
    pub fn create_edge(
        &mut self,
        edge_type: &EdgeType,
        edge: &Edge<'_>,
    ) -> Result<&mut Self, LogError> {
        self.edge((Op::Insert, Cause::Client), edge_type, None, Some(edge))
    }

    /// An edge's properties changed. [`Old::Unknown`] says that the key properties are what they
    /// were, as for [`update_node`](Self::update_node).
    ///
    /// # Errors
    /// As for [`create_edge`](Self::create_edge).
    pub fn update_edge(
        &mut self,
        edge_type: &EdgeType,
        before: Old<&Edge<'_>>,
        after: &Edge<'_>,
    ) -> Result<&mut Self, LogError> {
        let op = if matches!(before, Old::Missing) {
            Op::Insert
        } else {
            Op::Update
        };
        self.edge((op, Cause::Client), edge_type, before.known(), Some(after))
    }

    /// An edge went away.
    ///
    /// # Errors
    /// As for [`create_edge`](Self::create_edge).
    pub fn delete_edge(
        &mut self,
        edge_type: &EdgeType,
        before: &Edge<'_>,
    ) -> Result<&mut Self, LogError> {
        self.edge((Op::Delete, Cause::Client), edge_type, Some(before), None)
    }

    fn node(
        &mut self,
        what: (Op, Cause),
        label: &Label,
        before: Option<&Node<'_>>,
        after: Option<&Node<'_>>,
    ) -> Result<&mut Self, LogError> {
        let relation = &label.relation;
        if let Some(node) = after.or(before) {
            node.check(label)?;
        }
        bounded(
            relation,
            [before.map_or(0, Node::len), after.map_or(0, Node::len)],
        )?;
        let [old, new] = [before, after].map(|node| node.map_or(&[][..], |node| node.labels));
        let left = old.first().filter(|first| **first != &*relation.table);
        let parts = Parts {
            before: before.is_some(),
            after: after.is_some(),
            meta: true,
        };
        self.record(what, relation, parts, |part, row| {
            match (part, before, after) {
                (Part::Before, Some(node), _) | (Part::After, _, Some(node)) => {
                    write_node(relation, row, node);
                }
                (Part::Meta, ..) => {
                    row.text("entity");
                    row.text("node");
                    row.text("labels");
                    // Before or after, each once.
                    let gone = old.iter().filter(|label| !new.contains(label));
                    texts(row, new.iter().chain(gone).copied());
                    if let Some(left) = left {
                        row.text("old_table");
                        row.text(left);
                    }
                }
                _ => {}
            }
        })
    }

    fn edge(
        &mut self,
        what: (Op, Cause),
        edge_type: &EdgeType,
        before: Option<&Edge<'_>>,
        after: Option<&Edge<'_>>,
    ) -> Result<&mut Self, LogError> {
        let relation = &edge_type.relation;
        bounded(
            relation,
            [before.map_or(0, Edge::len), after.map_or(0, Edge::len)],
        )?;
        let parts = Parts {
            before: before.is_some(),
            after: after.is_some(),
            meta: true,
        };
        self.record(what, relation, parts, |part, row| {
            match (part, before, after) {
                (Part::Before, Some(edge), _) | (Part::After, _, Some(edge)) => {
                    write_edge(relation, row, edge);
                }
                (Part::Meta, ..) => {
                    row.text("entity");
                    row.text("edge");
                }
                _ => {}
            }
        })
    }
}
