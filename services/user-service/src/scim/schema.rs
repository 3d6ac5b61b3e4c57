//! The schemas (RFC 7643 sections 3.1, 4 and 8.7): what `/Schemas` says is what documents, filters and paths are read by.

use serde_json::{Value, json};

pub const USER: &str = "urn:ietf:params:scim:schemas:core:2.0:User";
pub const GROUP: &str = "urn:ietf:params:scim:schemas:core:2.0:Group";
pub const ENTERPRISE: &str = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User";

/// A kind of resource with its schema and extensions.
#[derive(Debug)]
pub struct Resource {
    pub name: &'static str,
    pub endpoint: &'static str,
    pub description: &'static str,
    pub schema: &'static Schema,
    pub extensions: &'static [&'static Schema],
}

/// A schema.
#[derive(Debug)]
pub struct Schema {
    pub urn: &'static str,
    pub name: &'static str,
    pub description: &'static str,
    pub attributes: &'static [Attribute],
}

/// An attribute of a resource, or of a complex attribute.
#[derive(Debug, Clone, Copy)]
pub struct Attribute {
    pub name: &'static str,
    pub kind: Kind,
    pub multi_valued: bool,
    pub required: bool,
    pub case_exact: bool,
    pub mutability: Mutability,
    pub unique: bool,
    /// Values that are usual.
    pub canonical: &'static [&'static str],
    pub description: &'static str,
}

/// What a value may be.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    Text,
    Boolean,
    DateTime,
    /// Base64.
    Binary,
    /// A URI of what these words name.
    Reference(&'static [&'static str]),
    Complex(&'static [Attribute]),
}

/// Who may write it, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutability {
    ReadOnly,
    ReadWrite,
    Immutable,
    /// Also never returned.
    WriteOnly,
}

const fn text(name: &'static str, description: &'static str) -> Attribute {
    Attribute {
        name,
        kind: Kind::Text,
        multi_valued: false,
        required: false,
        case_exact: false,
        mutability: Mutability::ReadWrite,
        unique: false,
        canonical: &[],
        description,
    }
}

const fn of(kind: Kind, attribute: Attribute) -> Attribute {
    Attribute { kind, ..attribute }
}

const fn read_only(attribute: Attribute) -> Attribute {
    Attribute { mutability: Mutability::ReadOnly, ..attribute }
}

const fn complex(name: &'static str, description: &'static str, parts: &'static [Attribute]) -> Attribute {
    of(Kind::Complex(parts), text(name, description))
}

const fn many(name: &'static str, description: &'static str, parts: &'static [Attribute]) -> Attribute {
    Attribute { multi_valued: true, ..complex(name, description, parts) }
}

const fn usual(values: &'static [&'static str], attribute: Attribute) -> Attribute {
    Attribute { canonical: values, ..attribute }
}

const DISPLAY: Attribute = text("display", "For people to read.");
const TYPE: Attribute = text("type", "What it is used for.");
const PRIMARY: Attribute = of(Kind::Boolean, text("primary", "The preferred one; at most one is."));

/// What most lists of values are made of.
const PLAIN: &[Attribute] = &[text("value", "The value."), DISPLAY, TYPE, PRIMARY];

const META: &[Attribute] = &[
    Attribute { case_exact: true, ..read_only(text("resourceType", "The kind of resource.")) },
    read_only(of(Kind::DateTime, text("created", "When it was made."))),
    read_only(of(Kind::DateTime, text("lastModified", "When it last changed."))),
    Attribute { case_exact: true, ..read_only(text("location", "Its URI.")) },
    Attribute { case_exact: true, ..read_only(text("version", "Its entity tag.")) },
];

/// What every resource has (RFC 7643 section 3.1); `/Schemas` does not name it.
pub static COMMON: &[Attribute] = &[
    Attribute { case_exact: true, unique: true, ..read_only(text("id", "Its id.")) },
    Attribute { case_exact: true, ..text("externalId", "The client's own id of it.") },
    read_only(complex("meta", "Of the resource itself.", META)),
];

pub static USER_SCHEMA: Schema = Schema {
    urn: USER,
    name: "User",
    description: "A person",
    attributes: &[
        Attribute { required: true, unique: true, ..text("userName", "What the person logs in with, in any case.") },
        complex(
            "name",
            "The parts of the name.",
            &[
                text("formatted", "The whole name."),
                text("familyName", "The family name."),
                text("givenName", "The given name."),
                text("middleName", "The middle names."),
                text("honorificPrefix", "Such as Dr."),
                text("honorificSuffix", "Such as III."),
            ],
        ),
        text("displayName", "What others see."),
        text("nickName", "How the person is called."),
        of(Kind::Reference(&["external"]), text("profileUrl", "A page about the person.")),
        text("title", "Such as Vice President."),
        text("userType", "Such as Contractor."),
        text("preferredLanguage", "As in Accept-Language."),
        text("locale", "Such as fr-FR."),
        text("timezone", "Such as Europe/Paris."),
        of(Kind::Boolean, text("active", "Who is not active may nothing and cannot log in.")),
        Attribute {
            mutability: Mutability::WriteOnly,
            case_exact: true,
            ..text("password", "A new password; auth-service keeps it.")
        },
        many(
            "emails",
            "Addresses; the primary one, or else the first, is where Kronos writes to. It is unique.",
            &[text("value", "The address."), DISPLAY, usual(&["work", "home", "other"], TYPE), PRIMARY],
        ),
        many(
            "phoneNumbers",
            "Telephone numbers.",
            &[
                text("value", "The number."),
                DISPLAY,
                usual(&["work", "home", "mobile", "fax", "pager", "other"], TYPE),
                PRIMARY,
            ],
        ),
        many("ims", "Addresses for instant messages.", PLAIN),
        many(
            "photos",
            "Pictures of the person.",
            &[
                of(Kind::Reference(&["external"]), text("value", "Where it is.")),
                DISPLAY,
                usual(&["photo", "thumbnail"], TYPE),
                PRIMARY,
            ],
        ),
        many(
            "addresses",
            "Postal addresses.",
            &[
                text("formatted", "The whole address."),
                text("streetAddress", "Street and number."),
                text("locality", "The town."),
                text("region", "The region."),
                text("postalCode", "The postal code."),
                text("country", "ISO 3166-1 alpha 2."),
                usual(&["work", "home", "other"], TYPE),
                PRIMARY,
            ],
        ),
        read_only(many(
            "groups",
            "The groups that the person is in.",
            &[
                Attribute { case_exact: true, ..read_only(text("value", "The group's id.")) },
                read_only(of(Kind::Reference(&["Group"]), text("$ref", "The group's URI."))),
                read_only(text("display", "The group's name.")),
                read_only(usual(&["direct"], text("type", "Groups have no groups."))),
            ],
        )),
        many("entitlements", "Kept as it is; it grants nothing in Kronos.", PLAIN),
        many("roles", "Kept as it is; it grants nothing in Kronos: groups and assignments do.", PLAIN),
        many(
            "x509Certificates",
            "Certificates, DER in base64.",
            &[
                Attribute { case_exact: true, ..of(Kind::Binary, text("value", "The certificate.")) },
                DISPLAY,
                TYPE,
                PRIMARY,
            ],
        ),
    ],
};

pub static ENTERPRISE_SCHEMA: Schema = Schema {
    urn: ENTERPRISE,
    name: "EnterpriseUser",
    description: "A person in an enterprise",
    attributes: &[
        text("employeeNumber", "The number of the person."),
        text("costCenter", "The name of a cost centre."),
        text("organization", "The name of an organisation."),
        text("division", "The name of a division."),
        text("department", "The name of a department."),
        complex(
            "manager",
            "Another person.",
            &[
                Attribute { case_exact: true, ..text("value", "The id of the person.") },
                of(Kind::Reference(&["User"]), text("$ref", "The URI of the person.")),
                read_only(text("displayName", "The name of the person.")),
            ],
        ),
    ],
};

pub static GROUP_SCHEMA: Schema = Schema {
    urn: GROUP,
    name: "Group",
    description: "A group of people, who have its roles",
    attributes: &[
        Attribute { required: true, unique: true, ..text("displayName", "The group's name, in any case.") },
        many(
            "members",
            "Who is in it.",
            &[
                Attribute {
                    case_exact: true,
                    mutability: Mutability::Immutable,
                    ..text("value", "The id of the person.")
                },
                Attribute {
                    mutability: Mutability::Immutable,
                    ..of(Kind::Reference(&["User"]), text("$ref", "The URI of the person."))
                },
                Attribute { mutability: Mutability::Immutable, ..usual(&["User"], text("type", "Always User.")) },
            ],
        ),
    ],
};

pub static USERS: Resource = Resource {
    name: "User",
    endpoint: "/Users",
    description: "People",
    schema: &USER_SCHEMA,
    extensions: &[&ENTERPRISE_SCHEMA],
};

pub static GROUPS: Resource = Resource {
    name: "Group",
    endpoint: "/Groups",
    description: "Groups of people",
    schema: &GROUP_SCHEMA,
    extensions: &[],
};

/// Every schema that `/Schemas` shows.
pub static SCHEMAS: [&Schema; 3] = [&USER_SCHEMA, &GROUP_SCHEMA, &ENTERPRISE_SCHEMA];

/// An attribute's name in a list of attributes, whatever its case (RFC 7643 section 2.1).
pub fn named(attributes: &'static [Attribute], name: &str) -> Option<&'static Attribute> {
    attributes.iter().find(|attribute| attribute.name.eq_ignore_ascii_case(name))
}

impl Resource {
    /// The attribute of this name; with a URN, of that schema. Gives also the URN of the extension that it is in.
    pub fn attribute(
        &'static self,
        urn: Option<&str>,
        name: &str,
    ) -> Option<(Option<&'static str>, &'static Attribute)> {
        match urn {
            Some(urn) if !urn.eq_ignore_ascii_case(self.schema.urn) => {
                let extension = self.extension(urn)?;
                Some((Some(extension.urn), named(extension.attributes, name)?))
            }
            _ => Some((None, named(self.schema.attributes, name).or_else(|| named(COMMON, name))?)),
        }
    }

    /// The extension of this URN.
    pub fn extension(&self, urn: &str) -> Option<&'static Schema> {
        self.extensions.iter().copied().find(|extension| extension.urn.eq_ignore_ascii_case(urn))
    }
}

impl Attribute {
    /// The parts of a complex attribute; of another one none.
    pub fn parts(&self) -> &'static [Attribute] {
        match self.kind {
            Kind::Complex(parts) => parts,
            _ => &[],
        }
    }

    /// The part of this name; without one, what stands for the whole: `value`.
    pub fn part(&self, name: Option<&str>) -> Option<&'static Attribute> {
        named(self.parts(), name.unwrap_or("value"))
    }

    fn to_json(self) -> Value {
        let (kind, references) = match self.kind {
            Kind::Text => ("string", None),
            Kind::Boolean => ("boolean", None),
            Kind::DateTime => ("dateTime", None),
            Kind::Binary => ("binary", None),
            Kind::Reference(names) => ("reference", Some(names)),
            Kind::Complex(_) => ("complex", None),
        };
        let mutability = match self.mutability {
            Mutability::ReadOnly => "readOnly",
            Mutability::ReadWrite => "readWrite",
            Mutability::Immutable => "immutable",
            Mutability::WriteOnly => "writeOnly",
        };
        let mut json = json!({
            "name": self.name, "type": kind, "multiValued": self.multi_valued, "description": self.description,
            "required": self.required, "mutability": mutability,
            "returned": if self.mutability == Mutability::WriteOnly { "never" } else { "default" },
        });
        if !matches!(self.kind, Kind::Complex(_) | Kind::Boolean) {
            json["caseExact"] = self.case_exact.into();
            json["uniqueness"] = if self.unique { "server" } else { "none" }.into();
        }
        if let Some(names) = references {
            json["referenceTypes"] = json!(names);
        }
        if !self.canonical.is_empty() {
            json["canonicalValues"] = json!(self.canonical);
        }
        if !self.parts().is_empty() {
            json["subAttributes"] = self.parts().iter().map(|part| part.to_json()).collect();
        }
        json
    }
}

impl Schema {
    /// As `/Schemas` shows it (RFC 7643 section 7).
    pub fn to_json(&self, base: &str) -> Value {
        json!({
            "schemas": ["urn:ietf:params:scim:schemas:core:2.0:Schema"],
            "id": self.urn, "name": self.name, "description": self.description,
            "attributes": self.attributes.iter().map(|attribute| attribute.to_json()).collect::<Vec<_>>(),
            "meta": {"resourceType": "Schema", "location": format!("{base}/Schemas/{}", self.urn)},
        })
    }
}

impl Resource {
    /// As `/ResourceTypes` shows it (RFC 7643 section 6).
    pub fn to_json(&self, base: &str) -> Value {
        let extensions = self.extensions.iter().map(|schema| json!({"schema": schema.urn, "required": false}));
        json!({
            "schemas": ["urn:ietf:params:scim:schemas:core:2.0:ResourceType"],
            "id": self.name, "name": self.name, "endpoint": self.endpoint, "description": self.description,
            "schema": self.schema.urn, "schemaExtensions": extensions.collect::<Vec<_>>(),
            "meta": {"resourceType": "ResourceType", "location": format!("{base}/ResourceTypes/{}", self.name)},
        })
    }
}
