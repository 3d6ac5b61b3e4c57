//! Whom a SCIM filter finds: filters become SQL in which every value is bound and every name is one of ours.

use chrono::{DateTime, Utc};
use kronos_common::{name, problem::Result};
use sqlx::{PgPool, Postgres, QueryBuilder};
use uuid::Uuid;

use super::attribute_filter::{self, Attributes};
use crate::scim::{
    Fault,
    filter::{AttributePath, Filter, Operator},
    matching::{Scope, Wanted},
    schema::{Attribute, Kind, Resource, USERS},
};

/// The expression of `users_texts_idx`, letter by letter.
const TEXTS: &str = "lower(r.profile::text || ' ' || r.attributes::text || ' ' || r.email || ' ' || r.display_name)";
/// A text of fewer characters has no trigram.
pub(super) const SHORTEST: usize = 3;

/// What to look for.
#[derive(Debug, Clone)]
pub(crate) struct Search {
    /// Kinds of resources, each with the filter that its attributes are looked up for.
    pub(crate) resources: Vec<&'static Resource>,
    pub(crate) filter: Option<Filter>,
    pub(crate) sort_by: Option<AttributePath>,
    pub(crate) descending: bool,
    /// How many are passed over.
    pub(crate) skip: i64,
    pub(crate) count: i64,
}

/// How many there are, and id and kind of those of the page. Without an order the newest come first.
pub(crate) async fn search(pool: &PgPool, search: &Search) -> Result<(i64, Vec<(Uuid, String)>)> {
    let mut total = QueryBuilder::<Postgres>::new("select count(*) from (");
    push_found(&mut total, search, false)?;
    let total: i64 = total.push(") s").build_query_scalar().persistent(false).fetch_one(pool).await?;
    if search.count == 0 || search.skip >= total {
        return Ok((total, Vec::new()));
    }
    let mut page = QueryBuilder::<Postgres>::new("select id, kind from (");
    push_found(&mut page, search, true)?;
    page.push(") s order by ");
    if search.sort_by.is_some() {
        page.push(if search.descending { "key desc nulls first, " } else { "key asc nulls last, " });
    }
    page.push("id desc limit ").push_bind(search.count).push(" offset ").push_bind(search.skip);
    let found = page.build_query_as::<(Uuid, String)>().persistent(false).fetch_all(pool).await?;
    Ok((total, found))
}

/// A select for each kind of resource. A kind that has not got an attribute that is asked for has none that are found,
/// unless no kind has it.
fn push_found(query: &mut QueryBuilder<Postgres>, search: &Search, with_key: bool) -> std::result::Result<(), Fault> {
    let mut unknown = None;
    let mut first = true;
    for resource in &search.resources {
        let mut one = QueryBuilder::<Postgres>::new("");
        if let Err(fault) = search.filter.as_ref().map_or(Ok(()), |filter| push(&mut one, scope(resource), filter)) {
            unknown = Some(fault);
            continue;
        }
        query.push(if first { "" } else { " union all " });
        first = false;
        query.push(format!("select r.id, '{}' as kind", resource.name));
        if let (Some(path), true) = (&search.sort_by, with_key) {
            query.push(format!(", {} as key", sort_key(resource, path)?));
        }
        query.push(if resource.name == USERS.name { " from users r" } else { " from groups r" });
        if let Some(filter) = &search.filter {
            query.push(" where ");
            push(query, scope(resource), filter)?;
        }
    }
    match unknown {
        Some(fault) if first => Err(fault),
        _ => Ok(()),
    }
}

/// The condition of a filter on the people `r`, in which `attributes.name` is one that the administrator has defined.
///
/// # Errors
/// `invalidFilter`.
pub(crate) fn push_people(query: &mut QueryBuilder<Postgres>, filter: &Filter, attributes: &Attributes<'_>) -> Pushed {
    push(query, Place { attributes: Some(attributes), ..scope(&USERS) }, filter)
}

fn scope(resource: &'static Resource) -> Place<'static> {
    Place { scope: Scope::Resource(resource), resource, attributes: None }
}

/// Where a name is looked up.
#[derive(Clone, Copy)]
struct Place<'a> {
    scope: Scope,
    resource: &'static Resource,
    attributes: Option<&'a Attributes<'a>>,
}

impl<'a> Place<'a> {
    /// Whether a path is of an attribute that the administrator has defined, and its name.
    fn defined<'b>(&self, path: &'b AttributePath) -> Option<(&'a Attributes<'a>, &'b str)> {
        let is_ours = path.urn.is_none() && path.name.eq_ignore_ascii_case("attributes");
        self.attributes.filter(|_| is_ours).zip(path.part.as_deref())
    }

    /// Whether its texts are among those of `users_texts_idx`.
    fn has_texts(&self, attribute: &Attribute) -> bool {
        let elsewhere = ["id", "externalId", "userName", "meta", "groups"];
        self.resource.name == USERS.name && !elsewhere.contains(&attribute.name)
    }
}

pub(super) type Pushed = std::result::Result<(), Fault>;

/// A condition on the row `r`, or in an element on `e`. It may be null, which is no.
fn push(query: &mut QueryBuilder<Postgres>, place: Place<'_>, filter: &Filter) -> Pushed {
    match filter {
        Filter::And(filters) => push_all(query, place, filters, " and "),
        Filter::Or(filters) => push_all(query, place, filters, " or "),
        Filter::Not(filter) => {
            query.push("not coalesce(");
            push(query, place, filter)?;
            query.push(", false)");
            Ok(())
        }
        Filter::Compare(path, operator, value) => {
            if let Some((attributes, name)) = place.defined(path) {
                return attribute_filter::compare(query, attributes, name, *operator, value);
            }
            let (urn, attribute) = place.scope.find(path)?;
            let part = attribute.part(path.part.as_deref());
            let wanted = Wanted::of(part.unwrap_or(attribute), *operator, value)?;
            let outside = matches!(place.scope, Scope::Resource(_)) && place.has_texts(attribute);
            query.push("(");
            match needed(*operator, value) {
                Some(text) if outside => {
                    push_has_text(query, text);
                    query.push(" and ");
                }
                Some(text) if place.resource.name == USERS.name && attribute.name == "userName" => {
                    let pattern = format!("%{}%", escape_like(&name::key(text)));
                    query.push("r.search like ").push_bind(pattern).push(r" escape '\' and ");
                }
                _ => {}
            }
            match elements(place, attribute) {
                None => compare(query, &column(place, urn, attribute, part)?, *operator, &wanted),
                Some(elements) => push_elements(query, &elements, attribute, part, *operator, &wanted)?,
            }
            query.push(")");
            Ok(())
        }
        Filter::Present(path) => {
            if let Some((attributes, name)) = place.defined(path) {
                return attribute_filter::present(query, attributes, name);
            }
            let (urn, attribute) = place.scope.find(path)?;
            let part = attribute.part(path.part.as_deref());
            match (elements(place, attribute), part) {
                (Some(elements), Some(part)) => {
                    query.push(format!("exists (select from {elements} where e ->> '{}' is not null)", part.name));
                }
                (Some(elements), None) => _ = query.push(format!("exists (select from {elements})")),
                (None, None) if !attribute.parts().is_empty() => {
                    query.push(format!("{} is not null", whole(urn, attribute)));
                }
                (None, part) => {
                    query.push(format!("{} is not null", column(place, urn, attribute, part)?.sql));
                }
            }
            Ok(())
        }
        Filter::Element(path, filter) => {
            let (_, attribute) = place.scope.find(path)?;
            let Some(elements) = elements(place, attribute) else {
                return Err(Fault::InvalidFilter(format!("{path} has no elements")));
            };
            query.push("(");
            if place.has_texts(attribute) {
                for text in needed_by(filter) {
                    push_has_text(query, text);
                    query.push(" and ");
                }
            }
            query.push(format!("exists (select from {elements} where "));
            push(query, Place { scope: Scope::Element(attribute), ..place }, filter)?;
            query.push("))");
            Ok(())
        }
    }
}

/// The text that must be somewhere in a person of whom such a comparison is true, if the index can look for it.
fn needed(operator: Operator, value: &serde_json::Value) -> Option<&str> {
    let looks_for =
        matches!(operator, Operator::Equal | Operator::Contains | Operator::StartsWith | Operator::EndsWith);
    value.as_str().filter(|text| looks_for && text.chars().count() >= SHORTEST)
}

/// The same of a filter of elements.
fn needed_by(filter: &Filter) -> Vec<&str> {
    match filter {
        Filter::And(filters) => filters.iter().flat_map(needed_by).collect(),
        Filter::Compare(_, operator, value) => needed(*operator, value).into_iter().collect(),
        _ => Vec::new(),
    }
}

/// A condition that follows from another one, and that an index knows: somewhere in the person `r` is this text.
pub(super) fn push_has_text(query: &mut QueryBuilder<Postgres>, text: &str) {
    // As it stands in JSON; in columns it stands as it is.
    let quoted = serde_json::Value::from(text).to_string();
    let in_json = &quoted[1..quoted.len() - 1];
    let has = |query: &mut QueryBuilder<Postgres>, text: &str| {
        query.push(format!("{TEXTS} like lower(")).push_bind(format!("%{}%", escape_like(text))).push(r") escape '\'");
    };
    if in_json == text {
        return has(query, text);
    }
    query.push("(");
    has(query, in_json);
    query.push(" or ");
    has(query, text);
    query.push(")");
}

/// A text as a pattern that is found as it is.
pub(super) fn escape_like(text: &str) -> String {
    text.replace('\\', r"\\").replace('%', r"\%").replace('_', r"\_")
}

fn push_all(query: &mut QueryBuilder<Postgres>, place: Place<'_>, filters: &[Filter], word: &str) -> Pushed {
    query.push("(");
    for (number, filter) in filters.iter().enumerate() {
        query.push(if number > 0 { word } else { "" });
        push(query, place, filter)?;
    }
    query.push(")");
    Ok(())
}

/// Some element's part compares so; with an element that has it not, only `ne` and null do.
fn push_elements(
    query: &mut QueryBuilder<Postgres>,
    elements: &str,
    attribute: &'static Attribute,
    part: Option<&'static Attribute>,
    operator: Operator,
    wanted: &Wanted,
) -> Pushed {
    let Some(part) = part else {
        return Err(Fault::InvalidFilter(format!("{} has parts: name one of them", attribute.name)));
    };
    // The one question that is asked all the time, by the index: is this person in the group?
    if let (("members" | "groups", "value", Operator::Equal), Wanted::Text(id)) =
        ((attribute.name, part.name, operator), wanted)
    {
        let (own, other) = if attribute.name == "members" { ("group_id", "user_id") } else { ("user_id", "group_id") };
        let Ok(id) = id.parse::<Uuid>() else {
            query.push("false");
            return Ok(());
        };
        query.push(format!("exists (select from group_members m where m.{own} = r.id and m.{other} = "));
        query.push_bind(id).push(")");
        return Ok(());
    }
    let has = format!("from {elements} where e ->> '{}' is not null", part.name);
    match (wanted, operator) {
        (Wanted::Nothing, Operator::Equal) => _ = query.push(format!("not exists (select {has})")),
        (Wanted::Nothing, _) => _ = query.push(format!("exists (select {has})")),
        (_, Operator::NotEqual) => {
            query.push(format!("(not exists (select {has}) or exists (select {has} and "));
            compare(query, &element(part), operator, wanted);
            query.push("))");
        }
        _ => {
            query.push(format!("exists (select {has} and "));
            compare(query, &element(part), operator, wanted);
            query.push(")");
        }
    }
    Ok(())
}

/// A value that can be compared.
struct Column {
    sql: String,
    form: Form,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Exact,
    /// Case does not count.
    Folded,
    /// It is a key of a name already.
    Key,
    Other,
}

fn form(attribute: &Attribute) -> Form {
    match attribute.kind {
        Kind::Boolean | Kind::DateTime => Form::Other,
        _ if attribute.case_exact => Form::Exact,
        _ => Form::Folded,
    }
}

fn element(part: &Attribute) -> Column {
    let sql = match part.kind {
        Kind::Boolean => format!("(e ->> '{}')::boolean", part.name),
        _ => format!("(e ->> '{}')", part.name),
    };
    Column { sql, form: form(part) }
}

/// A value that there is one of at most.
fn column(
    place: Place<'_>,
    urn: Option<&str>,
    attribute: &'static Attribute,
    part: Option<&'static Attribute>,
) -> std::result::Result<Column, Fault> {
    if matches!(place.scope, Scope::Element(_)) {
        return Ok(element(attribute));
    }
    let own = |sql: &str, form| Ok(Column { sql: sql.to_owned(), form });
    let is_person = place.resource.name == USERS.name;
    match (attribute.name, part.map(|part| part.name)) {
        ("id", _) => own("r.id::text", Form::Exact),
        ("externalId", _) => own("r.external_id", Form::Exact),
        ("userName", _) => own("r.username_key", Form::Key),
        ("displayName", _) if urn.is_none() && is_person => {
            own("(case when r.profile ? 'displayName' then null else r.display_name end)", Form::Folded)
        }
        ("displayName", _) if urn.is_none() => own("r.name_key", Form::Key),
        ("active", _) => {
            own("(case when not r.disabled and r.profile ? 'active' then null else not r.disabled end)", Form::Other)
        }
        ("meta", Some("created")) => own("r.created_at", Form::Other),
        ("meta", Some("lastModified")) => own("r.updated_at", Form::Other),
        ("meta", Some("version")) => own("('\"v' || r.version || '\"')", Form::Exact),
        ("meta", Some("resourceType")) => own(if is_person { "'User'::text" } else { "'Group'::text" }, Form::Exact),
        ("meta", _) => Err(Fault::InvalidFilter("of meta, location cannot be asked for".to_owned())),
        (name, _) => {
            let place = urn.map_or("r.profile".to_owned(), |urn| format!("r.profile -> '{urn}'"));
            let (sql, leaf) = match part {
                Some(part) => (format!("({place} -> '{name}' ->> '{}')", part.name), part),
                None => (format!("({place} ->> '{name}')"), attribute),
            };
            Ok(Column { sql, form: form(leaf) })
        }
    }
}

/// A whole complex attribute; null without it.
fn whole(urn: Option<&str>, attribute: &Attribute) -> String {
    match (urn, attribute.name) {
        (None, "meta") => "r.created_at".to_owned(),
        (None, name) => format!("nullif(r.profile -> '{name}', 'null')"),
        (Some(urn), name) => format!("nullif(r.profile -> '{urn}' -> '{name}', 'null')"),
    }
}

/// The values of a list as rows `e`.
fn elements(place: Place<'_>, attribute: &Attribute) -> Option<String> {
    if !attribute.multi_valued || matches!(place.scope, Scope::Element(_)) {
        return None;
    }
    Some(match attribute.name {
        "emails" => "jsonb_array_elements(case when r.profile ? 'emails' then nullif(r.profile -> 'emails', 'null') \
                     else jsonb_build_array(jsonb_build_object('value', r.email, 'primary', true)) end) as x (e)"
            .to_owned(),
        "members" => "(select jsonb_build_object('value', m.user_id, 'type', 'User') from group_members m \
                      where m.group_id = r.id) as x (e)"
            .to_owned(),
        "groups" => "(select jsonb_build_object('value', g.id, 'display', g.name, 'type', 'direct') \
                     from group_members m join groups g on g.id = m.group_id where m.user_id = r.id) as x (e)"
            .to_owned(),
        name => format!("jsonb_array_elements(nullif(r.profile -> '{name}', 'null')) as x (e)"),
    })
}

fn compare(query: &mut QueryBuilder<Postgres>, column: &Column, operator: Operator, wanted: &Wanted) {
    let sql = &column.sql;
    let sign = match operator {
        Operator::Equal => "=",
        Operator::NotEqual => "is distinct from",
        Operator::Greater => ">",
        Operator::GreaterOrEqual => ">=",
        Operator::Less => "<",
        Operator::LessOrEqual => "<=",
        Operator::Contains | Operator::StartsWith | Operator::EndsWith => "",
    };
    match wanted {
        Wanted::Nothing if operator == Operator::Equal => _ = query.push(format!("{sql} is null")),
        Wanted::Nothing => _ = query.push(format!("{sql} is not null")),
        Wanted::Boolean(value) => _ = query.push(format!("{sql} {sign} ")).push_bind(*value),
        Wanted::Time(time) => _ = query.push(format!("{sql} {sign} ")).push_bind::<DateTime<Utc>>(*time),
        Wanted::Text(text) => {
            let sql = if column.form == Form::Folded { format!("lower({sql})") } else { sql.clone() };
            let text = if column.form == Form::Key { name::key(text) } else { text.clone() };
            match operator {
                Operator::Contains => {
                    query.push(format!("strpos({sql}, ")).push_bind(text).push(") > 0");
                }
                Operator::StartsWith => {
                    query.push(format!("starts_with({sql}, ")).push_bind(text).push(")");
                }
                Operator::EndsWith => {
                    query
                        .push(format!("right({sql}, char_length("))
                        .push_bind(text.clone())
                        .push(")) = ")
                        .push_bind(text);
                }
                Operator::Equal | Operator::NotEqual => _ = query.push(format!("{sql} {sign} ")).push_bind(text),
                _ => _ = query.push(format!("{sql} collate \"C\" {sign} ")).push_bind(text),
            }
        }
    }
}

/// What a kind of resource is sorted by: of a list the preferred value, or else the first.
fn sort_key(resource: &'static Resource, path: &AttributePath) -> std::result::Result<String, Fault> {
    let place = scope(resource);
    let invalid = || Fault::InvalidPath(format!("sortBy: {path} is nothing to sort by"));
    let (urn, attribute) = place.scope.find(path).map_err(|_| invalid())?;
    let part = attribute.part(path.part.as_deref());
    let column = match (elements(place, attribute), part) {
        (Some(elements), Some(part)) => {
            let order = "(e ->> 'primary')::boolean desc nulls last";
            let sql = format!("(select e ->> '{}' from {elements} order by {order} limit 1)", part.name);
            Column { sql, form: form(part) }
        }
        (None, Some(_)) => column(place, urn, attribute, part)?,
        (None, None) if attribute.parts().is_empty() => column(place, urn, attribute, None)?,
        _ => return Err(invalid()),
    };
    Ok(if column.form == Form::Folded { format!("lower({})", column.sql) } else { column.sql })
}
