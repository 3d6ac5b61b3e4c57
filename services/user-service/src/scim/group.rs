//! A group as a SCIM document, and back; a PATCH of one, whose members are too many to be made a document of.

use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    Document, Fault,
    document::value_of,
    filter::{Filter, Operator},
    matching::{Scope, passes},
    patch::{Kind, Operation, Place, found},
    person::meta,
    schema::{Attribute, GROUP, GROUPS},
};
use crate::groups::{Group, GroupChanges, GroupName, Members};

/// What a document makes of a group.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub name: GroupName,
    pub external_id: Option<String>,
    pub members: Vec<Uuid>,
}

/// A group as it is sent.
pub fn render(group: &Group, members: &[Uuid], base: &str) -> Document {
    let mut document = Document::new();
    document.insert("schemas".to_owned(), json!([GROUP]));
    document.insert("id".to_owned(), json!(group.id));
    if let Some(id) = &group.external_id {
        document.insert("externalId".to_owned(), json!(id));
    }
    document.insert("displayName".to_owned(), json!(group.name));
    if !members.is_empty() {
        let members =
            members.iter().map(|id| json!({"value": id, "$ref": format!("{base}/Users/{id}"), "type": "User"}));
        document.insert("members".to_owned(), members.collect());
    }
    let location = format!("{base}/Groups/{}", group.id);
    let (created, changed) = (group.created_at, group.updated_at);
    document.insert("meta".to_owned(), meta("Group", created, changed, &location, group.version));
    document
}

/// What a document makes of a group.
///
/// # Errors
/// `invalidValue` that names the attribute.
pub fn read(mut document: Document) -> Result<Wanted, Fault> {
    let Some(name) = document.remove("displayName") else {
        return Err(Fault::InvalidValue("displayName: it is required".to_owned()));
    };
    let external_id = document.remove("externalId").and_then(|id| id.as_str().map(str::to_owned));
    let members = document.remove("members").map_or(Ok(Vec::new()), |members| ids(&members))?;
    Ok(Wanted { name: name_of(&name)?, external_id, members })
}

fn name_of(value: &Value) -> Result<GroupName, Fault> {
    let name = value.as_str().unwrap_or_default().to_owned();
    GroupName::try_from(name).map_err(|rule| Fault::InvalidValue(format!("displayName: {rule}")))
}

fn ids(members: &Value) -> Result<Vec<Uuid>, Fault> {
    let id = |member: &Value| {
        let id = member["value"].as_str().and_then(|id| id.parse().ok());
        id.ok_or_else(|| Fault::InvalidValue("members: the value of each is the id of a person".to_owned()))
    };
    members.as_array().into_iter().flatten().map(id).collect()
}

/// What the operations of a PATCH make of a group.
///
/// # Errors
/// `mutability`, `invalidPath`, `invalidValue`.
pub fn plan(operations: Vec<Operation>) -> Result<GroupChanges, Fault> {
    let mut changes = GroupChanges::default();
    for Operation { kind, target, value } in operations {
        let Place::Attribute(target) = target else {
            return Err(Fault::InvalidPath("groups have no extensions".to_owned()));
        };
        let (_, attribute) = found(&GROUPS, &target.attribute)?;
        let fixed = || Fault::Mutability(format!("{} cannot be changed so", target.attribute));
        match (attribute.name, kind) {
            _ if target.attribute.part.is_some() => return Err(fixed()),
            ("members", _) => {
                let step = step(attribute, kind, target.filter, value)?;
                changes.members.push(step.ok_or_else(fixed)?);
            }
            ("displayName", Kind::Remove) => return Err(fixed()),
            ("displayName", _) => changes.name = Some(name_of(&value)?),
            ("externalId", Kind::Remove) => changes.external_id = Some(None),
            ("externalId", _) => {
                let id = value_of(attribute, value)?;
                changes.external_id = Some(id.and_then(|id| id.as_str().map(str::to_owned)));
            }
            _ => return Err(fixed()),
        }
    }
    Ok(changes)
}

/// One step; `None`: members are in a group or not, and cannot be altered.
fn step(
    attribute: &'static Attribute,
    kind: Kind,
    filter: Option<Filter>,
    value: Value,
) -> Result<Option<Members>, Fault> {
    let sent = value_of(attribute, value)?;
    let sent = sent.as_ref().map(ids).transpose()?;
    Ok(match (kind, filter, sent) {
        (Kind::Add, None, sent) => Some(Members::Add(sent.unwrap_or_default())),
        (Kind::Replace, None, sent) => Some(Members::Set(sent.unwrap_or_default())),
        (Kind::Remove, None, None) => Some(Members::Set(Vec::new())),
        (Kind::Remove, None, Some(sent)) => Some(Members::Remove(sent)),
        (Kind::Remove, Some(filter), _) => {
            // Says now what a filter has wrong, whoever the members are.
            is_found(&filter, Uuid::nil())?;
            Some(named(&filter).map_or(Members::RemoveFound(filter), Members::Remove))
        }
        (Kind::Add | Kind::Replace, Some(_), _) => None,
    })
}

/// Whom a filter names one by one: `value eq "…"`, perhaps several with `or`.
fn named(filter: &Filter) -> Option<Vec<Uuid>> {
    match filter {
        Filter::Or(filters) => filters.iter().map(named).collect::<Option<Vec<_>>>().map(|ids| ids.concat()),
        Filter::Compare(path, Operator::Equal, Value::String(id)) if path.name.eq_ignore_ascii_case("value") => {
            id.parse().ok().map(|id| vec![id])
        }
        _ => None,
    }
}

/// Whether a filter on members finds this person.
///
/// # Errors
/// `invalidFilter`.
pub fn is_found(filter: &Filter, person: Uuid) -> Result<bool, Fault> {
    let members = GROUPS.attribute(None, "members").map(|(_, members)| members).expect("groups have members");
    let member = json!({"value": person, "type": "User"});
    passes(Scope::Element(members), member.as_object().unwrap_or(&Document::new()), filter)
}
