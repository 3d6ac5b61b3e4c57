//! The walk over a statement's syntax tree. Every node is on a list of the known and harmless, or the statement is
//! refused: a kind of node that a later parser adds is refused until someone puts it on a list.

use std::{collections::HashSet, ops::ControlFlow};

use sqlparser::{
    ast::{
        AccessExpr, CastKind, Cte, DescribeAlias, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentClause,
        FunctionArguments, GroupByExpr, Ident, JoinOperator, LimitClause, ObjectName, ObjectNamePart, OrderBy,
        OrderByExpr, OrderByKind, OrderBySort, Query, Select, SelectFlavor, SelectItem,
        SelectItemQualifiedWildcardKind, SetExpr, Spanned, Statement, TableAlias, TableFactor, TableWithJoins, Value,
        ValueWithSpan, Visit as _, Visitor, WildcardAdditionalOptions,
    },
    tokenizer::Location,
};

use super::{Kind, Known, Refusal, allowed, placeholder};

/// Options of EXPLAIN that execute nothing.
const EXPLAIN_OPTIONS: &[&str] = &["verbose", "costs", "format", "settings", "summary"];

/// The kind of the statement at the root.
pub(super) fn statement_kind(statement: &Statement) -> Result<Kind, Refusal> {
    let at = statement.span().start;
    match statement {
        Statement::Query(_) => Ok(Kind::Rows),
        Statement::Explain { describe_alias, analyze, query_plan, estimate, statement, options, .. } => {
            if *analyze {
                return Err(Refusal::new("explain_analyze", at, "EXPLAIN ANALYZE would execute: leave ANALYZE out"));
            }
            for option in options.iter().flatten() {
                let name = option.name.value.to_ascii_lowercase();
                if name == "analyze" {
                    let detail = "EXPLAIN ANALYZE would execute: leave ANALYZE out";
                    return Err(Refusal::new("explain_analyze", option.name.span.start, detail));
                }
                if !EXPLAIN_OPTIONS.contains(&name.as_str()) {
                    let detail = format!("EXPLAIN takes {} here", EXPLAIN_OPTIONS.join(", "));
                    return Err(Refusal::new("explain_option", option.name.span.start, detail));
                }
            }
            let plain = matches!(describe_alias, DescribeAlias::Explain) && !query_plan && !estimate;
            if plain && matches!(**statement, Statement::Query(_)) {
                Ok(Kind::Explain)
            } else {
                Err(Refusal::new("statement_kind", at, "EXPLAIN takes a SELECT or VALUES here"))
            }
        }
        Statement::ShowVariable { variable } => match &variable[..] {
            [one] if one.quote_style.is_none() => Ok(Kind::Show),
            _ => Err(Refusal::new("statement_kind", at, "SHOW takes the name of one setting here")),
        },
        _ => Err(Refusal::new("statement_kind", at, "only SELECT, VALUES, EXPLAIN and SHOW may run here")),
    }
}

/// Walks the whole tree; says the highest parameter number.
pub(super) fn walk(statement: &Statement, known: &Known) -> Result<usize, Refusal> {
    let mut guard = Guard { known, ctes: HashSet::new(), parameters: 0, statements: 0 };
    match statement.visit(&mut guard) {
        ControlFlow::Continue(()) => Ok(guard.parameters),
        ControlFlow::Break(refusal) => Err(*refusal),
    }
}

/// A name as PostgreSQL reads it: each part folded to lower case unless quoted. None if a part is not a plain name.
pub(super) fn folded(name: &ObjectName) -> Option<Vec<String>> {
    name.0
        .iter()
        .map(|part| match part {
            ObjectNamePart::Identifier(ident) => Some(fold(ident)),
            ObjectNamePart::Function(_) => None,
        })
        .collect()
}

fn fold(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_ascii_lowercase() }
}

struct Guard<'a> {
    known: &'a Known,
    /// Names of all common table expressions met so far.
    ctes: HashSet<String>,
    parameters: usize,
    statements: usize,
}

type Verdict = ControlFlow<Box<Refusal>>;

const FINE: Verdict = ControlFlow::Continue(());

fn refuse(rule: &'static str, at: Location, detail: impl Into<String>) -> Verdict {
    ControlFlow::Break(Box::new(Refusal::new(rule, at, detail)))
}

/// Refuses what PostgreSQL does not have, or what nobody has judged yet.
fn unknown(at: Location, what: &str) -> Verdict {
    refuse("not_allowed", at, format!("{what} is not allowed here"))
}

impl Visitor for Guard<'_> {
    type Break = Box<Refusal>;

    fn pre_visit_statement(&mut self, statement: &Statement) -> Verdict {
        self.statements += 1;
        let nested_in_explain = self.statements == 2 && matches!(statement, Statement::Query(_));
        if self.statements > 1 && !nested_in_explain {
            return refuse("nested_statement", statement.span().start, "a query may hold no other kind of statement");
        }
        FINE
    }

    fn pre_visit_query(&mut self, query: &Query) -> Verdict {
        let at = query.span().start;
        if let Some(lock) = query.locks.first() {
            let at = lock.of.as_ref().map_or(at, |of| of.span().start);
            return refuse("locking", at, "FOR UPDATE and FOR SHARE take locks: leave them out");
        }
        if query.for_clause.is_some()
            || query.settings.is_some()
            || query.format_clause.is_some()
            || !query.pipe_operators.is_empty()
            || query.fetch.as_ref().is_some_and(|fetch| fetch.percent)
        {
            return unknown(at, "a clause at the end of this query");
        }
        match &query.limit_clause {
            None => {}
            Some(LimitClause::LimitOffset { limit_by, .. }) if limit_by.is_empty() => {}
            Some(_) => return unknown(at, "this form of LIMIT"),
        }
        for cte in query.with.iter().flat_map(|with| &with.cte_tables) {
            self.cte(cte)?;
        }
        body(&query.body)
    }

    fn pre_visit_select(&mut self, select: &Select) -> Verdict {
        let at = select.span().start;
        if select.into.is_some() {
            return refuse("into", at, "SELECT INTO would make a table");
        }
        let plain = select.optimizer_hints.is_empty()
            && select.select_modifiers.is_none()
            && select.top.is_none()
            && !select.top_before_distinct
            && select.exclude.is_none()
            && select.lateral_views.is_empty()
            && select.prewhere.is_none()
            && select.connect_by.is_empty()
            && select.cluster_by.is_empty()
            && select.distribute_by.is_empty()
            && select.sort_by.is_empty()
            && select.qualify.is_none()
            && select.value_table_mode.is_none()
            && matches!(select.flavor, SelectFlavor::Standard);
        if !plain {
            return unknown(at, "a clause of this SELECT");
        }
        for item in &select.projection {
            match item {
                SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. } => {}
                SelectItem::Wildcard(options)
                | SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(_), options)
                    if plain_wildcard(options) => {}
                _ => return unknown(at, "a form of selected column"),
            }
        }
        select.from.iter().try_for_each(joins)
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> Verdict {
        let at = factor.span().start;
        match factor {
            TableFactor::Table {
                name,
                alias,
                args,
                with_hints,
                version,
                partitions,
                json_path,
                sample,
                index_hints,
                with_ordinality,
            } => {
                let plain = with_hints.is_empty()
                    && version.is_none()
                    && partitions.is_empty()
                    && json_path.is_none()
                    && sample.is_none()
                    && index_hints.is_empty();
                if !plain {
                    return unknown(at, "this form of table");
                }
                plain_alias(alias.as_ref())?;
                match args {
                    Some(args) if args.settings.is_none() => {
                        self.function_name(name)?;
                        args.args.iter().try_for_each(|arg| argument(arg, at))
                    }
                    Some(_) => unknown(at, "this form of table function"),
                    None if *with_ordinality => unknown(at, "WITH ORDINALITY on a table"),
                    None => self.table_name(name),
                }
            }
            TableFactor::Function { name, args, alias, .. } => {
                plain_alias(alias.as_ref())?;
                self.function_name(name)?;
                args.iter().try_for_each(|arg| argument(arg, at))
            }
            TableFactor::Derived { alias, sample: None, .. } => plain_alias(alias.as_ref()),
            TableFactor::UNNEST { alias, with_offset: false, with_offset_alias: None, .. } => {
                plain_alias(alias.as_ref())
            }
            TableFactor::NestedJoin { table_with_joins, alias } => {
                plain_alias(alias.as_ref())?;
                joins(table_with_joins)
            }
            _ => unknown(at, "this form of table"),
        }
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> Verdict {
        let at = expr.span().start;
        match expr {
            Expr::CompoundIdentifier(parts) => self.column_name(parts),
            Expr::CompoundFieldAccess { access_chain, .. } => {
                if access_chain.iter().all(|access| matches!(access, AccessExpr::Subscript(_))) {
                    FINE
                } else {
                    refuse("field_access", at, "(value).name can call a function: use -> or name the columns")
                }
            }
            Expr::BinaryOp { op, .. } | Expr::AnyOp { compare_op: op, .. } | Expr::AllOp { compare_op: op, .. } => {
                if allowed::binary(op) {
                    FINE
                } else {
                    refuse("operator", at, format!("the operator {op} is not allowed here"))
                }
            }
            Expr::UnaryOp { op, .. } => {
                if allowed::unary(*op) {
                    FINE
                } else {
                    refuse("operator", at, format!("the operator {op} is not allowed here"))
                }
            }
            Expr::Cast { kind: CastKind::Cast | CastKind::DoubleColon, data_type, format: None, .. } => {
                type_name(data_type, at)
            }
            Expr::TypedString(typed) if !typed.uses_odbc_syntax => type_name(&typed.data_type, at),
            Expr::Function(function) => self.function(function),
            Expr::Like { any: false, .. } | Expr::ILike { any: false, .. } => FINE,
            Expr::Array(array) if array.named => FINE,
            Expr::Ceil { field, .. } | Expr::Floor { field, .. } => {
                use sqlparser::ast::{CeilFloorKind, DateTimeField};
                match field {
                    CeilFloorKind::DateTimeField(DateTimeField::NoDateTime) => FINE,
                    _ => unknown(at, "this form of rounding"),
                }
            }
            Expr::Trim { trim_characters: None, .. } => FINE,
            Expr::Identifier(_)
            | Expr::IsFalse(_)
            | Expr::IsNotFalse(_)
            | Expr::IsTrue(_)
            | Expr::IsNotTrue(_)
            | Expr::IsNull(_)
            | Expr::IsNotNull(_)
            | Expr::IsUnknown(_)
            | Expr::IsNotUnknown(_)
            | Expr::IsDistinctFrom(..)
            | Expr::IsNotDistinctFrom(..)
            | Expr::InList { .. }
            | Expr::InSubquery { .. }
            | Expr::Between { .. }
            | Expr::SimilarTo { .. }
            | Expr::AtTimeZone { .. }
            | Expr::Extract { .. }
            | Expr::Position { .. }
            | Expr::Substring { .. }
            | Expr::Overlay { .. }
            | Expr::Nested(_)
            | Expr::Value(_)
            | Expr::Case { .. }
            | Expr::Exists { .. }
            | Expr::Subquery(_)
            | Expr::GroupingSets(_)
            | Expr::Cube(_)
            | Expr::Rollup(_)
            | Expr::Tuple(_)
            | Expr::Interval(_)
            | Expr::Wildcard(_) => FINE,
            _ => unknown(at, "this expression"),
        }
    }

    fn pre_visit_value(&mut self, value: &ValueWithSpan) -> Verdict {
        match &value.value {
            Value::Number(_, false) | Value::SingleQuotedString(_) | Value::Boolean(_) | Value::Null => FINE,
            Value::Placeholder(name) => match placeholder(name) {
                Some(number) => {
                    self.parameters = self.parameters.max(number);
                    FINE
                }
                None => refuse("placeholder", value.span.start, "parameters are written $1, $2, …"),
            },
            _ => refuse("string_form", value.span.start, "write 'text' or use $1"),
        }
    }

    fn pre_visit_order_by(&mut self, order: &OrderBy) -> Verdict {
        match (&order.kind, &order.interpolate) {
            (OrderByKind::Expressions(_), None) => FINE,
            _ => unknown(order.span().start, "this form of ORDER BY"),
        }
    }

    fn pre_visit_order_by_expr(&mut self, order: &OrderByExpr) -> Verdict {
        let at = order.span().start;
        match (&order.options.sort, &order.with_fill) {
            (None | Some(OrderBySort::Asc | OrderBySort::Desc), None) => FINE,
            (Some(OrderBySort::Using(_)), _) => refuse("operator", at, "ORDER BY … USING is not allowed here"),
            _ => unknown(at, "this form of ORDER BY"),
        }
    }

    fn pre_visit_group_by(&mut self, group: &GroupByExpr) -> Verdict {
        match group {
            GroupByExpr::Expressions(_, modifiers) if modifiers.is_empty() => FINE,
            _ => unknown(group.span().start, "this form of GROUP BY"),
        }
    }
}

impl Guard<'_> {
    fn cte(&mut self, cte: &Cte) -> Verdict {
        let at = cte.alias.name.span.start;
        let name = fold(&cte.alias.name);
        // An unqualified name that is no CTE where it stands would be looked for in pg_catalog.
        if name.starts_with("pg_") {
            return refuse("name", at, "the name of a WITH query may not begin with pg_");
        }
        if cte.from.is_some() {
            return unknown(at, "this form of WITH");
        }
        plain_alias(Some(&cte.alias))?;
        self.ctes.insert(name);
        FINE
    }

    fn table_name(&self, name: &ObjectName) -> Verdict {
        let at = name.span().start;
        match folded(name).as_deref() {
            Some([name]) if self.ctes.contains(name) => FINE,
            Some([name]) => {
                refuse("table", at, format!("there is no WITH query {name}; a table is written schema.table"))
            }
            Some([schema, table]) if self.known.tables.contains(&(schema.clone(), table.clone())) => FINE,
            Some([schema, table]) => {
                refuse("table", at, format!("{schema}.{table} can't be read here; GET /db/tables lists what can"))
            }
            _ => refuse("table", at, "a table is written schema.table"),
        }
    }

    /// `alias.name` calls the function `name` on the row if it has no such column.
    fn column_name(&self, parts: &[Ident]) -> Verdict {
        let Some(last) = parts.last() else { return FINE };
        if self.known.called_as_columns.contains(&fold(last)) {
            let detail = format!("{} could call the function of that name", last.value);
            return refuse("function_as_column", last.span.start, detail);
        }
        FINE
    }

    fn function_name(&self, name: &ObjectName) -> Verdict {
        let at = name.span().start;
        let parts = folded(name);
        let bare = match parts.as_deref() {
            Some([bare]) => bare,
            Some([schema, bare]) if schema == "pg_catalog" => bare,
            _ => return refuse("function", at, format!("the function {name} is not allowed here")),
        };
        if self.known.functions.contains(bare) {
            FINE
        } else {
            refuse("function", at, format!("the function {bare} is not allowed here"))
        }
    }

    fn function(&self, function: &Function) -> Verdict {
        let at = function.name.span().start;
        self.function_name(&function.name)?;
        let plain = !function.uses_odbc_syntax && matches!(function.parameters, FunctionArguments::None);
        if !plain || function.null_treatment.is_some() {
            return unknown(at, "this form of function call");
        }
        match &function.args {
            FunctionArguments::None | FunctionArguments::Subquery(_) => FINE,
            FunctionArguments::List(list) => {
                if !list.clauses.iter().all(|clause| matches!(clause, FunctionArgumentClause::OrderBy(_))) {
                    return unknown(at, "a clause of this function call");
                }
                list.args.iter().try_for_each(|arg| argument(arg, at))
            }
        }
    }
}

fn argument(argument: &FunctionArg, at: Location) -> Verdict {
    match argument {
        FunctionArg::ExprNamed { name, .. } if !matches!(name, Expr::Identifier(_)) => {
            unknown(at, "this form of argument")
        }
        FunctionArg::Named { arg, .. } | FunctionArg::ExprNamed { arg, .. } | FunctionArg::Unnamed(arg) => match arg {
            FunctionArgExpr::Expr(_) | FunctionArgExpr::Wildcard | FunctionArgExpr::QualifiedWildcard(_) => FINE,
            FunctionArgExpr::WildcardWithOptions(_) => unknown(at, "this form of argument"),
        },
    }
}

fn type_name(data_type: &sqlparser::ast::DataType, at: Location) -> Verdict {
    if allowed::data_type(data_type) {
        FINE
    } else {
        refuse("type", at, format!("the type {data_type} is not allowed here"))
    }
}

/// What stands where a SELECT may stand.
fn body(set: &SetExpr) -> Verdict {
    match set {
        SetExpr::Select(_) | SetExpr::Query(_) => FINE,
        SetExpr::Values(values) if !values.explicit_row && !values.value_keyword => FINE,
        SetExpr::SetOperation { left, right, .. } => {
            body(left)?;
            body(right)
        }
        SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => {
            refuse("nested_statement", set.span().start, "a query may hold no other kind of statement")
        }
        _ => unknown(set.span().start, "this form of query"),
    }
}

fn joins(table: &TableWithJoins) -> Verdict {
    table.joins.iter().try_for_each(|join| match join.join_operator {
        JoinOperator::Join(_)
        | JoinOperator::Inner(_)
        | JoinOperator::Left(_)
        | JoinOperator::LeftOuter(_)
        | JoinOperator::Right(_)
        | JoinOperator::RightOuter(_)
        | JoinOperator::FullOuter(_)
        | JoinOperator::CrossJoin(_)
            if !join.global =>
        {
            FINE
        }
        _ => unknown(join.span().start, "this form of JOIN"),
    })
}

/// A list of columns with types would cast.
fn plain_alias(alias: Option<&TableAlias>) -> Verdict {
    match alias {
        Some(alias) if alias.at.is_some() || alias.columns.iter().any(|column| column.data_type.is_some()) => {
            unknown(alias.name.span.start, "this form of alias")
        }
        _ => FINE,
    }
}

fn plain_wildcard(options: &WildcardAdditionalOptions) -> bool {
    options.opt_ilike.is_none()
        && options.opt_exclude.is_none()
        && options.opt_except.is_none()
        && options.opt_replace.is_none()
        && options.opt_rename.is_none()
        && options.opt_alias.is_none()
}
