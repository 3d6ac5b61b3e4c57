//! The problems that operations may answer, for their documents.

use std::collections::BTreeMap;

use kronos_common::problem::ProblemBody;
use utoipa::{
    IntoResponses, ToSchema as _,
    openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder},
};

type Responses = BTreeMap<String, RefOr<Response>>;

fn problems(statuses: &[u16]) -> Responses {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(ProblemBody::name()))).build();
    let problem = ResponseBuilder::new().content("application/problem+json", content).build();
    statuses.iter().map(|status| (status.to_string(), RefOr::T(problem.clone()))).collect()
}

/// Of operations without a body.
#[derive(Debug)]
pub struct ToReaders;

impl IntoResponses for ToReaders {
    fn responses() -> Responses {
        problems(&[400, 401, 403])
    }
}

/// Of operations with one.
#[derive(Debug)]
pub struct ToWriters;

impl IntoResponses for ToWriters {
    fn responses() -> Responses {
        problems(&[400, 401, 403, 413, 415, 422])
    }
}

/// Of those that make something with a name.
#[derive(Debug)]
pub struct ToMakers;

impl IntoResponses for ToMakers {
    fn responses() -> Responses {
        problems(&[400, 401, 403, 409, 413, 415, 422])
    }
}

/// Of those that replace it, perhaps by `If-Match`.
#[derive(Debug)]
pub struct ToReplacers;

impl IntoResponses for ToReplacers {
    fn responses() -> Responses {
        problems(&[400, 401, 403, 404, 409, 412, 413, 415, 422])
    }
}

/// Of those that delete it.
#[derive(Debug)]
pub struct ToDeleters;

impl IntoResponses for ToDeleters {
    fn responses() -> Responses {
        problems(&[400, 401, 403, 404, 412])
    }
}
