//! Relations a log's writer has seen, with the ids their frames use.

use std::collections::HashMap;
use std::sync::Arc;

use cdc_core::Relation;

use crate::format::relation;
use crate::{LogError, LogErrorKind};

/// Most relations remembered; beyond it they are given new ids, which costs a definition a
/// segment and nothing else.
const RELATIONS_MAX: usize = 16_384;

/// A relation with its id and its definition's bytes.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) id: u32,
    pub(crate) relation: Arc<Relation>,
    pub(crate) definition: Arc<[u8]>,
}

#[derive(Debug, Default)]
pub(crate) struct Registry {
    /// By address: each entry keeps its relation alive, so an address means one relation.
    by_address: HashMap<usize, Known>,
    by_value: HashMap<Arc<Relation>, Known>,
    next: u32,
}

impl Registry {
    /// A registry that goes on where a recovered segment's definitions end.
    pub(crate) fn recovered(defined: &HashMap<u32, Arc<Relation>>) -> Self {
        let mut registry = Self::default();
        for (&id, relation) in defined {
            registry.next = registry.next.max(id.saturating_add(1));
            if let Ok(definition) = relation::encode(relation) {
                let known = Known {
                    id,
                    relation: relation.clone(),
                    definition: definition.into(),
                };
                registry.by_value.insert(relation.clone(), known);
            }
        }
        registry
    }

    pub(crate) fn get(&mut self, relation: &Arc<Relation>, max: usize) -> Result<Known, LogError> {
        let address = Arc::as_ptr(relation) as usize;
        if let Some(known) = self.by_address.get(&address) {
            return Ok(known.clone());
        }
        if self.by_address.len() >= RELATIONS_MAX || self.by_value.len() >= RELATIONS_MAX {
            self.by_address.clear();
            self.by_value.clear();
        }
        let known = match self.by_value.get(relation) {
            // The same shape under another address: same id, but this address is kept alive.
            Some(known) => Known {
                relation: relation.clone(),
                ..known.clone()
            },
            None => {
                let definition = encode(relation, max)?;
                let id = self.next;
                self.next = self.next.checked_add(1).ok_or_else(|| {
                    LogError::new(
                        LogErrorKind::TooLarge,
                        "append to the log: all relation ids are used; reopen the log",
                    )
                })?;
                let known = Known {
                    id,
                    relation: relation.clone(),
                    definition,
                };
                self.by_value.insert(relation.clone(), known.clone());
                known
            }
        };
        self.by_address.insert(address, known.clone());
        Ok(known)
    }
}

fn encode(relation: &Relation, max: usize) -> Result<Arc<[u8]>, LogError> {
    let refuse = |why: String| {
        LogError::new(
            LogErrorKind::TooLarge,
            format!(
                "append to the log: the definition of {}: {why}",
                relation.qualified_name()
            ),
        )
    };
    let bytes = relation::encode(relation).map_err(|error| refuse(error.to_string()))?;
    if bytes.len() > max {
        return Err(refuse(format!(
            "it takes {} bytes, a frame of this log holds {max}; use larger segments",
            bytes.len()
        )));
    }
    Ok(bytes.into())
}
