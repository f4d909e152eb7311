//! Markdown documents: a space whose documents are known by path, and one where they have ids,
//! with folders to move between.

use std::collections::BTreeMap;

use cdc_core::{Cause, Op, Value};

use super::{Dice, Model, Seen, State, client, domain_name, looked, with_old};
use crate::LogError;
use crate::kinds::markdown::{Document, Folder, Identity, Markdown, Sections};
use crate::kinds::{KindTransaction, Old};

const FOLDERS: [&str; 3] = ["guides", "notes", "drafts"];

#[derive(Clone, Debug)]
struct Page {
    id: Option<String>,
    front_matter: Option<String>,
    body: String,
    sections: Vec<String>,
}

/// The data of a domain.
#[derive(Clone, Debug)]
pub struct Pages {
    folders: Vec<Folder>,
    with_ids: bool,
    next_id: u64,
    /// By path; its first part is the folder.
    pages: BTreeMap<String, Page>,
}

impl Page {
    fn random(dice: &mut Dice, id: Option<String>) -> Self {
        Self {
            id,
            front_matter: dice
                .chance(60)
                .then(|| format!("{{\"title\":\"{}\"}}", dice.text())),
            body: format!("# One\n{}\n", dice.text()),
            sections: (0..dice.below(3))
                .map(|n| format!("One/Part {n}"))
                .collect(),
        }
    }

    fn with<R>(&self, path: &str, then: impl FnOnce(&Document<'_>) -> R) -> R {
        let sections: Vec<_> = self.sections.iter().map(String::as_str).collect();
        then(&Document {
            id: self.id.as_deref(),
            path,
            front_matter: self.front_matter.as_deref(),
            body: &self.body,
            sections: &sections,
        })
    }
}

impl Pages {
    fn folder(&self, path: &str) -> &Folder {
        let name = path.split('/').next().unwrap_or_default();
        let at = FOLDERS.iter().position(|folder| *folder == name);
        &self.folders[at.unwrap_or(0)]
    }
}

fn path(dice: &mut Dice) -> String {
    format!("{}/{}.md", dice.pick(&FOLDERS), dice.below(3))
}

impl Model for Pages {
    type Kind = Markdown;

    fn empty(domain: usize) -> Self {
        let space = domain_name("space", domain);
        let with_ids = domain % 2 == 1;
        let identity = if with_ids {
            Identity::Id
        } else {
            Identity::Path
        };
        let folders = FOLDERS
            .iter()
            .map(|name| Folder::new(&space, name, identity));
        Self {
            folders: folders.collect(),
            with_ids,
            next_id: 0,
            pages: BTreeMap::new(),
        }
    }

    fn mutate(
        &mut self,
        tx: &mut KindTransaction<Markdown>,
        dice: &mut Dice,
    ) -> Result<Seen, LogError> {
        let path = path(dice);
        let folder = self.folder(&path).clone();
        let Some(old) = self.pages.get(&path).cloned() else {
            self.next_id += 1;
            let id = self.with_ids.then(|| format!("d{}", self.next_id));
            let page = Page::random(dice, id);
            page.with(&path, |page| tx.create(&folder, page).map(drop))?;
            self.pages.insert(path, page);
            return Ok(client(Op::Insert));
        };
        match dice.below(10) {
            0..4 => {
                let page = Page::random(dice, old.id.clone());
                let sections = Sections {
                    changed: &["One"],
                    ..Sections::default()
                };
                let unseen = dice.chance(30);
                page.with(&path, |after| {
                    old.with(&path, |before| {
                        let before = if unseen {
                            Old::Unknown
                        } else {
                            Old::Known(before)
                        };
                        tx.edit(&folder, before, after, sections).map(drop)
                    })
                })?;
                self.pages.insert(path, page);
                Ok(looked(Op::Update, unseen))
            }
            4..8 => {
                let to = self::path(dice);
                if self.pages.contains_key(&to) {
                    return Ok(Vec::new());
                }
                let target = self.folder(&to).clone();
                let mut page = old.clone();
                if dice.chance(30) {
                    page.body = dice.text();
                }
                page.with(&to, |after| {
                    old.with(&path, |before| {
                        tx.rename((&folder, before), (&target, after)).map(drop)
                    })
                })?;
                self.pages.remove(&path);
                self.pages.insert(to, page);
                Ok(with_old(Op::Update, Cause::Client))
            }
            _ => {
                old.with(&path, |before| tx.delete(&folder, before).map(drop))?;
                self.pages.remove(&path);
                Ok(with_old(Op::Delete, Cause::Client))
            }
        }
    }

    fn dump(&self, state: &mut State) {
        for (path, page) in &self.pages {
            let sections = page.sections.iter().cloned().map(Value::Text).collect();
            let row = [
                page.id.clone().map_or(Value::Null, Value::Text),
                Value::Text(path.clone()),
                page.front_matter.clone().map_or(Value::Null, Value::Json),
                Value::Text(page.body.clone()),
                Value::Array(sections),
            ];
            state.insert_values(self.folder(path).relation(), &row);
        }
    }

    fn load(&mut self, _table: &str, row: &[Value]) {
        let [
            id,
            Value::Text(path),
            front_matter,
            Value::Text(body),
            Value::Array(sections),
        ] = row
        else {
            return;
        };
        let text = |value: &Value| match value {
            Value::Text(text) | Value::Json(text) => Some(text.clone()),
            _ => None,
        };
        let id = text(id);
        let number = id
            .as_deref()
            .and_then(|id| id.strip_prefix('d')?.parse().ok());
        self.next_id = self.next_id.max(number.unwrap_or(0));
        let page = Page {
            id,
            front_matter: text(front_matter),
            body: body.clone(),
            sections: sections.iter().filter_map(text).collect(),
        };
        self.pages.insert(path.clone(), page);
    }
}
