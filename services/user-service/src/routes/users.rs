//! `/users`.

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use kronos_common::{
    etag::{ETag, IfMatch, IfNoneMatch},
    extract::{Json, Path, Query},
    identity::Allowed,
    page::{Cursor, Limit, Page},
    problem::{Problem, ProblemBody, Result},
};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::allowed::{CanReadUsers, CanWriteUsers};
use crate::{
    App,
    attributes::Schema,
    changes::{self, Actor},
    scim::{Document, filter::Filter},
    store::{self, attribute_filter::Attributes, users::Wanted},
    users::{Changes, DisplayName, Email, NewUser, Order, Password, Position, User, Username},
};

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct UserQuery {
    /// How many people.
    #[serde(default)]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 200)]
    limit: Limit,
    /// The `nextCursor` of the page before.
    #[param(value_type = Option<String>)]
    cursor: Option<Cursor>,
    /// Only those who have this text in their username, address or display name, in any case and Unicode form; a text of one
    /// or two characters: at the beginning of a word.
    q: Option<String>,
    /// Only those whom a SCIM filter finds (RFC 7644 section 3.4.2.2), by SCIM's names of attributes, or `attributes.NAME` for
    /// those of the schema.
    #[param(example = "externalId pr and emails.value ew \"@example.com\"")]
    filter: Option<String>,
    /// In which order: by username if nothing else is asked for; with `q` by creation, which is found fast however many have
    /// the text. A cursor goes on in the order that it was made in.
    #[param(value_type = Option<String>, example = "-createdAt")]
    sort: Option<Order>,
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct CreateUser {
    username: Username,
    email: Email,
    display_name: DisplayName,
    /// Without one the person cannot log in.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    password: Option<Password>,
    /// Of the schema (`GET /users/schema`).
    #[serde(default)]
    #[schema(value_type = HashMap<String, serde_json::Value>, example = json!({"customerNumber": "C-17"}))]
    attributes: Document,
}

/// A JSON Merge Patch (RFC 7396): what is absent stays, and null takes an attribute away. The rest is of everybody and cannot be
/// taken away: there null is refused.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct UpdateUser {
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    username: Option<Username>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    email: Option<Email>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    display_name: Option<DisplayName>,
    /// Somebody who is disabled may nothing and cannot log in.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    disabled: Option<bool>,
    /// A new password ends the person's sessions.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    password: Option<Password>,
    /// Null, or a null in it: they are taken away.
    #[serde(default)]
    #[schema(value_type = Option<HashMap<String, serde_json::Value>>, example = json!({"customerNumber": null}))]
    attributes: AttributesPatch,
}

/// What a merge patch says of attributes.
#[derive(Default)]
enum AttributesPatch {
    #[default]
    Unsaid,
    None,
    Patch(Document),
}

impl<'de> Deserialize<'de> for AttributesPatch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        Ok(Option::<Document>::deserialize(deserializer)?.map_or(Self::None, Self::Patch))
    }
}

/// Lists people, by username if nothing else is asked for.
#[utoipa::path(
    get, path = "/users", tag = "user-service", security(("bearer" = [])), params(UserQuery),
    responses(
        (status = 200, description = "A page", body = Page<User>),
        (status = 400, description = "`invalid_query`, `invalid_cursor`, `invalid_filter`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `users:read`", body = ProblemBody),
    )
)]
pub(super) async fn list_users(
    State(app): State<App>,
    _: Allowed<CanReadUsers>,
    Query(query): Query<UserQuery>,
) -> Result<Json<Page<User>>> {
    let text = query.q.as_deref().filter(|text| !text.is_empty()).map(|text| text.replace('\0', "\u{fffd}"));
    let order = query.sort.unwrap_or(if text.is_some() { Order::Created } else { Order::Username });
    if text.is_some() && order.by_name() {
        let detail = "people who have a text are in the order of their creation: sort by createdAt or -createdAt";
        return Err(Problem::bad_request("invalid_query", detail));
    }
    let position = query.cursor.map(|cursor| cursor.decode::<(Order, Position)>()).transpose()?;
    let after = match position {
        Some((in_order, position)) if in_order != order || !order.has(&position) => {
            return Err(Problem::bad_request("invalid_cursor", "the cursor is of a list in another order"));
        }
        // No name holds it, and no text of Postgres can.
        Some((_, Position::Key(key))) => Some(Position::Key(key.replace('\0', ""))),
        Some((_, id)) => Some(id),
        None => None,
    };
    let filter = query.filter.as_deref().filter(|filter| !filter.trim().is_empty());
    let filter = filter.map(Filter::parse).transpose()?;
    let schema = match &filter {
        Some(_) => store::attributes::schema(&app.pool).await?.0,
        None => Schema::default(),
    };
    let attributes = Attributes { schema: &schema, keyring: app.sealer.keyring().ok() };
    let wanted = Wanted { text: text.as_deref(), filter: filter.as_ref().map(|filter| (filter, attributes)) };
    let mut users = store::users::list(&app.pool, &wanted, order, after.as_ref(), query.limit.fetch()).await?;
    app.sealer.open_all(&mut users)?;
    Ok(Json(Page::new(users, query.limit, |user| (order, order.position(user)))))
}

/// Makes a person. With a password they can log in as soon as this has answered.
#[utoipa::path(
    post, path = "/users", tag = "user-service", security(("bearer" = [])), request_body = CreateUser,
    params(("Idempotency-Key" = Option<String>, Header, description = "A repetition gets the same answer")),
    responses(
        (status = 201, description = "Made; `Location` and `ETag`", body = User),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `users:write`", body = ProblemBody),
        (status = 409, description = "`username_taken`, `email_taken`", body = ProblemBody),
        (status = 422, description = "Bad fields, or a password that is too short", body = ProblemBody),
        (status = 503, description = "The password cannot be kept now; nothing was made", body = ProblemBody),
    )
)]
pub(super) async fn create_user(
    State(app): State<App>,
    allowed: Allowed<CanWriteUsers>,
    Json(body): Json<CreateUser>,
) -> Result<Response> {
    let CreateUser { username, email, display_name, password, attributes } = body;
    let (disabled, profile, external_id) = (false, Document::new(), None);
    let attributes = Some(attributes);
    let new = NewUser { username, email, display_name, disabled, profile, external_id, attributes };
    let user = changes::users::create(&app, Actor(&allowed.caller), Uuid::now_v7(), &new, password.as_ref()).await?;
    let location = [(header::LOCATION, format!("/users/{}", user.id))];
    Ok((StatusCode::CREATED, location, tag(&user), Json(user)).into_response())
}

/// A person.
#[utoipa::path(
    get, path = "/users/{id}", tag = "user-service", security(("bearer" = [])),
    params(("id" = Uuid, Path), ("If-None-Match" = Option<String>, Header, description = "A tag that is known already")),
    responses(
        (status = 200, description = "With `ETag`", body = User),
        (status = 304, description = "That tag is the current one"),
        (status = 400, description = "`invalid_path`", body = ProblemBody),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `users:read`", body = ProblemBody),
        (status = 404, description = "`not_found`", body = ProblemBody),
    )
)]
pub(super) async fn get_user(
    State(app): State<App>,
    _: Allowed<CanReadUsers>,
    Path(id): Path<Uuid>,
    known: IfNoneMatch,
) -> Result<Response> {
    let mut user = store::users::find(&app.pool, id).await?;
    app.sealer.open(&mut user)?;
    let tag = tag(&user);
    Ok(known.not_modified(&tag).unwrap_or_else(|| (tag, Json(user)).into_response()))
}

/// Changes a person. Who holds rights that the caller does not is out of the caller's reach.
#[utoipa::path(
    patch, path = "/users/{id}", tag = "user-service", security(("bearer" = [])),
    request_body(content(
        (UpdateUser = "application/merge-patch+json"),
        (UpdateUser = "application/json"),
    )),
    params(("id" = Uuid, Path), ("If-Match" = Option<String>, Header, description = "The version that is changed")),
    responses(
        (status = 200, description = "As it is now, with `ETag`", body = User),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `users:write`, and the privileged permissions that the person holds", body = ProblemBody),
        (status = 404, description = "`not_found`", body = ProblemBody),
        (status = 409, description = "`username_taken`, `email_taken`, `last_administrator`", body = ProblemBody),
        (status = 412, description = "The person has changed since", body = ProblemBody),
        (status = 422, description = "Bad fields, or a password that is too short", body = ProblemBody),
        (status = 503, description = "auth-service does not answer; nothing was changed", body = ProblemBody),
    )
)]
pub(super) async fn update_user(
    State(app): State<App>,
    allowed: Allowed<CanWriteUsers>,
    Path(id): Path<Uuid>,
    condition: IfMatch,
    Json(body): Json<UpdateUser>,
) -> Result<Response> {
    let UpdateUser { username, email, display_name, disabled, password, attributes } = body;
    let plan = |user: &User| {
        let attributes = match attributes {
            AttributesPatch::Unsaid => Document::new(),
            AttributesPatch::None => user.attributes.keys().map(|name| (name.clone(), Value::Null)).collect(),
            AttributesPatch::Patch(patch) => patch,
        };
        Ok((Changes { username, email, display_name, disabled, attributes }.apply(user), password))
    };
    let user = changes::users::change(&app, Actor(&allowed.caller), id, &condition, plan).await?;
    Ok((tag(&user), Json(user)).into_response())
}

/// Removes a person, their roles, their sessions and their password.
#[utoipa::path(
    delete, path = "/users/{id}", tag = "user-service", security(("bearer" = [])),
    params(("id" = Uuid, Path), ("If-Match" = Option<String>, Header, description = "The version that is removed")),
    responses(
        (status = 204, description = "Gone"),
        (status = 401, description = "No good token", body = ProblemBody),
        (status = 403, description = "Needs `users:write`, and the privileged permissions that the person holds", body = ProblemBody),
        (status = 404, description = "`not_found`", body = ProblemBody),
        (status = 409, description = "`last_administrator`", body = ProblemBody),
        (status = 412, description = "The person has changed since", body = ProblemBody),
    )
)]
pub(super) async fn delete_user(
    State(app): State<App>,
    allowed: Allowed<CanWriteUsers>,
    Path(id): Path<Uuid>,
    condition: IfMatch,
) -> Result<StatusCode> {
    changes::users::delete(&app, Actor(&allowed.caller), id, &condition).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn tag(user: &User) -> ETag {
    ETag::of_version(user.version)
}

/// A field that may be absent, but not null.
pub(super) fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}
