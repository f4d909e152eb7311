//! Nodes and edges: nodes with one to three labels, the first of which may change; edges that go
//! with their nodes.

use std::collections::BTreeMap;

use cdc_core::{Cause, Op, Value};

use super::{Dice, Model, Seen, State, client, domain_name, looked, with_old};
use crate::LogError;
use crate::kinds::graph::{Edge, EdgeType, End, Graph, Label, Node};
use crate::kinds::{KindTransaction, Old};

const LABELS: [&str; 3] = ["Person", "City", "Admin"];
const TYPES: [&str; 2] = ["KNOWS", "LIVES_IN"];

#[derive(Clone, Debug, PartialEq)]
struct Vertex {
    labels: Vec<&'static str>,
    properties: Vec<(&'static str, Value)>,
}

#[derive(Clone, Debug, PartialEq)]
struct Link {
    kind: usize,
    start: String,
    end: String,
    /// The ends as they were when the edge was last written: that is what its row says.
    ends: [Vertex; 2],
    properties: Vec<(&'static str, Value)>,
}

/// The data of a domain.
#[derive(Clone, Debug)]
pub struct Elements {
    labels: Vec<Label>,
    types: Vec<EdgeType>,
    next: u64,
    nodes: BTreeMap<String, Vertex>,
    edges: BTreeMap<String, Link>,
}

fn properties(dice: &mut Dice) -> Vec<(&'static str, Value)> {
    let mut all = vec![("name", Value::Text(dice.text()))];
    if dice.chance(60) {
        all.push(("email", Value::Text(dice.text())));
    }
    if dice.chance(40) {
        all.push(("score", Value::Float64(f64::from_bits(dice.roll()))));
    }
    if dice.chance(30) {
        all.push((
            "tags",
            Value::Array(vec![Value::Int(1), Value::Text(dice.text())]),
        ));
    }
    all
}

impl Vertex {
    fn random(dice: &mut Dice) -> Self {
        let from = dice.below(LABELS.len());
        let count = 1 + dice.below(LABELS.len());
        let labels = (0..count).map(|n| LABELS[(from + n) % LABELS.len()]);
        Self {
            labels: labels.collect(),
            properties: properties(dice),
        }
    }

    fn node<'a>(&'a self, id: &'a str) -> Node<'a> {
        Node {
            id,
            labels: &self.labels,
            properties: &self.properties,
        }
    }

    /// The key properties.
    fn keys(&self) -> &[(&'static str, Value)] {
        &self.properties[..1]
    }
}

impl Link {
    fn edge<'a>(&'a self, id: &'a str) -> Edge<'a> {
        let end = |id: &'a str, vertex: &'a Vertex| End {
            id,
            labels: &vertex.labels,
            keys: vertex.keys(),
        };
        Edge {
            id,
            start: end(&self.start, &self.ends[0]),
            end: end(&self.end, &self.ends[1]),
            properties: &self.properties,
        }
    }
}

impl Elements {
    fn label(&self, vertex: &Vertex) -> &Label {
        let first = vertex.labels.first();
        let at = LABELS.iter().position(|label| Some(label) == first);
        &self.labels[at.unwrap_or(0)]
    }

    fn some_node(&self, dice: &mut Dice) -> Option<String> {
        let at = dice.below(self.nodes.len());
        self.nodes.keys().nth(at).cloned()
    }

    fn node(&mut self, tx: &mut KindTransaction<Graph>, dice: &mut Dice) -> Result<Seen, LogError> {
        let chosen = if dice.chance(40) {
            None
        } else {
            self.some_node(dice)
        };
        let Some(id) = chosen else {
            self.next += 1;
            let (id, new) = (format!("n{}", self.next), Vertex::random(dice));
            tx.create_node(self.label(&new), &new.node(&id))?;
            self.nodes.insert(id, new);
            return Ok(client(Op::Insert));
        };
        let Some(old) = self.nodes.get(&id).cloned() else {
            return Ok(Vec::new());
        };
        if dice.chance(60) {
            let mut new = Vertex::random(dice);
            // Without a look at the old node its first label and its key must be the same.
            let unseen = dice.chance(30);
            let before = if unseen {
                new.labels.clone_from(&old.labels);
                new.properties[0].clone_from(&old.properties[0]);
                Old::Unknown
            } else {
                Old::Known(&old.node(&id))
            };
            tx.update_node(self.label(&new), before, &new.node(&id))?;
            self.nodes.insert(id, new);
            return Ok(looked(Op::Update, unseen));
        }
        let touches = |link: &Link| link.start == id || link.end == id;
        let gone: Vec<_> = self
            .edges
            .iter()
            .filter(|(_, link)| touches(link))
            .collect();
        let edges = gone
            .iter()
            .map(|(id, link)| (&self.types[link.kind], link.edge(id)));
        let mut seen = with_old(Op::Delete, Cause::Cascade).repeat(gone.len());
        tx.detach_delete(self.label(&old), &old.node(&id), edges)?;
        seen.extend(with_old(Op::Delete, Cause::Client));
        self.edges.retain(|_, link| !touches(link));
        self.nodes.remove(&id);
        Ok(seen)
    }

    fn edge(&mut self, tx: &mut KindTransaction<Graph>, dice: &mut Dice) -> Result<Seen, LogError> {
        let at = dice.below(self.edges.len());
        let chosen = self.edges.iter().nth(at);
        if let Some((id, old)) = chosen.filter(|_| dice.chance(50)) {
            let (id, kind) = (id.clone(), &self.types[old.kind]);
            if dice.chance(50) {
                tx.delete_edge(kind, &old.edge(&id))?;
                self.edges.remove(&id);
                return Ok(with_old(Op::Delete, Cause::Client));
            }
            let mut new = old.clone();
            new.properties = properties(dice);
            let old = old.edge(&id);
            let unseen = dice.chance(30);
            let before = if unseen {
                Old::Unknown
            } else {
                Old::Known(&old)
            };
            tx.update_edge(kind, before, &new.edge(&id))?;
            self.edges.insert(id, new);
            return Ok(looked(Op::Update, unseen));
        }
        let (Some(start), Some(end)) = (self.some_node(dice), self.some_node(dice)) else {
            return Ok(Vec::new());
        };
        let (Some(from), Some(to)) = (self.nodes.get(&start), self.nodes.get(&end)) else {
            return Ok(Vec::new());
        };
        self.next += 1;
        let id = format!("e{}", self.next);
        let new = Link {
            kind: dice.below(TYPES.len()),
            ends: [from.clone(), to.clone()],
            start,
            end,
            properties: properties(dice),
        };
        tx.create_edge(&self.types[new.kind], &new.edge(&id))?;
        self.edges.insert(id, new);
        Ok(client(Op::Insert))
    }
}

fn texts(all: &[&str]) -> Value {
    Value::Array(all.iter().map(|text| Value::from(*text)).collect())
}

fn map(all: &[(&'static str, Value)]) -> Value {
    Value::Map(
        all.iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect(),
    )
}

/// Names that this engine gives, from a row.
fn known(name: &str) -> &'static str {
    let all = ["name", "email", "score", "tags"].into_iter().chain(LABELS);
    all.into_iter()
        .find(|known| *known == name)
        .unwrap_or("unknown")
}

fn unmap(value: &Value) -> Vec<(&'static str, Value)> {
    match value {
        Value::Map(all) => all
            .iter()
            .map(|(name, value)| (known(name), value.clone()))
            .collect(),
        _ => Vec::new(),
    }
}

fn untexts(value: &Value) -> Vec<&'static str> {
    let text = |value: &Value| match value {
        Value::Text(text) => known(text),
        _ => "unknown",
    };
    match value {
        Value::Array(all) => all.iter().map(text).collect(),
        _ => Vec::new(),
    }
}

/// One end of an edge: id, labels and keys.
fn end(value: &Value) -> Option<(String, Vertex)> {
    let Value::Map(entries) = value else {
        return None;
    };
    let entry = |wanted: &str| {
        entries
            .iter()
            .find(|(name, _)| name == wanted)
            .map(|(_, v)| v)
    };
    match (entry("id")?, entry("labels")?, entry("keys")?) {
        (Value::Text(id), labels, keys) => Some((
            id.clone(),
            Vertex {
                labels: untexts(labels),
                properties: unmap(keys),
            },
        )),
        _ => None,
    }
}

impl Model for Elements {
    type Kind = Graph;

    fn empty(domain: usize) -> Self {
        let graph = domain_name("graph", domain);
        // Half of the graphs know people by a property as well.
        let keys: &[&str] = if domain % 2 == 1 { &["name"] } else { &[] };
        Self {
            labels: LABELS
                .iter()
                .map(|label| Label::new(&graph, label, keys))
                .collect(),
            types: TYPES
                .iter()
                .map(|kind| EdgeType::new(&graph, kind, &[]))
                .collect(),
            next: 0,
            nodes: BTreeMap::new(),
            edges: BTreeMap::new(),
        }
    }

    fn mutate(
        &mut self,
        tx: &mut KindTransaction<Graph>,
        dice: &mut Dice,
    ) -> Result<Seen, LogError> {
        if dice.chance(55) {
            self.node(tx, dice)
        } else {
            self.edge(tx, dice)
        }
    }

    fn dump(&self, state: &mut State) {
        for (id, vertex) in &self.nodes {
            let relation = self.label(vertex).relation();
            let mut row = vec![Value::Text(id.clone())];
            if relation.key.len() == 2 {
                row.push(vertex.properties[0].1.clone());
            }
            row.extend([texts(&vertex.labels), map(&vertex.properties)]);
            state.insert_values(relation, &row);
        }
        for (id, link) in &self.edges {
            let end = |id: &String, vertex: &Vertex| {
                Value::Map(vec![
                    ("id".to_owned(), Value::Text(id.clone())),
                    ("labels".to_owned(), texts(&vertex.labels)),
                    ("keys".to_owned(), map(vertex.keys())),
                ])
            };
            let row = [
                Value::Text(id.clone()),
                end(&link.start, &link.ends[0]),
                end(&link.end, &link.ends[1]),
                map(&link.properties),
            ];
            state.insert_values(self.types[link.kind].relation(), &row);
        }
    }

    fn load(&mut self, table: &str, row: &[Value]) {
        let Some(Value::Text(id)) = row.first() else {
            return;
        };
        let number = id.get(1..).and_then(|digits| digits.parse().ok());
        self.next = self.next.max(number.unwrap_or(0));
        if let Some(kind) = TYPES.iter().position(|kind| *kind == table) {
            let ends = (row.get(1).and_then(end), row.get(2).and_then(end));
            if let ((Some(start), Some(end)), Some(properties)) = (ends, row.get(3)) {
                let link = Link {
                    kind,
                    start: start.0,
                    end: end.0,
                    ends: [start.1, end.1],
                    properties: unmap(properties),
                };
                self.edges.insert(id.clone(), link);
            }
        } else if let [.., labels, properties] = row {
            let vertex = Vertex {
                labels: untexts(labels),
                properties: unmap(properties),
            };
            self.nodes.insert(id.clone(), vertex);
        }
    }
}
