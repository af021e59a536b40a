"""Accounts, for operators: list, create, change. `flask --app api accounts` does the same on the command line."""

from __future__ import annotations

import logging
from typing import Any

import orjson
from flask import Response, g
from werkzeug.exceptions import Conflict

from auth import accounts
from auth.accounts import EmailTaken
from routes.blueprint import Blueprint
from schemas.accounts import AccountChanges, AccountListQuery, AccountPath, ManagedAccount, NewAccount
from storage.cql import QueryOptions
from storage.db_io.accounts import Account, find_account, retrieve_accounts_page
from storage.errors import RowNotFound
from web import pagination
from web.access import InsufficientScope
from web.media_types import JSON
from web.openapi import error_response, responses
from web.responses import ResponseValue
from web.route_options import route_options
from web.sign_in import account_options, current_account, current_passwords

log = logging.getLogger(__name__)

blueprint = Blueprint("accounts", __name__, tag="accounts")

_for_operators = route_options(scope="operator", sign_in="everywhere")


@blueprint.get("/accounts", responses=responses(200, ManagedAccount, many=True, headers=("Link",)))
@_for_operators
def list_accounts(query: AccountListQuery) -> Response:
    """One page of the accounts, in token order. The `Link` header has the next page."""
    _require_active_operator()
    state = pagination.requested_paging_state()
    page = retrieve_accounts_page(g.session, query.limit, state, account_options())
    response = Response(orjson.dumps(list(map(accounts.managed_document, page.rows))), content_type=JSON)
    pagination.add_link(response, page.paging_state)
    return response


@blueprint.post(
    "/accounts",
    responses={
        **responses(201, ManagedAccount),
        409: error_response(409, "There is an account with this e-mail address"),
    },
)
@_for_operators
def create_account(body: NewAccount) -> ResponseValue:
    """Create an account."""
    _require_active_operator()
    options = account_options()
    try:
        account = accounts.create(
            g.session, body.email, body.password, body.scopes, current_passwords(options), options
        )
    except EmailTaken:
        raise Conflict("There is an account with this e-mail address.") from None
    log.info("%s created the account %s", g.caller.name, account.id)
    return accounts.managed_document(account), 201


# The part before the @-sign may contain a slash.
@blueprint.patch(
    "/accounts/<path:email>",
    responses={
        **responses(200, ManagedAccount, 404),
        409: error_response(409, "It is the account of the caller, or another request has changed it in the meantime"),
    },
)
@_for_operators
def change_account(path: AccountPath, body: AccountChanges) -> ResponseValue:
    """Disable or enable an account, set its password or its scopes. Each change revokes its refresh tokens.

    Operators can neither disable their own account nor remove its scope `operator`.
    """
    _require_active_operator()
    options = account_options()
    account = find_account(g.session, path.email, options)
    if account is None:
        raise RowNotFound("Account not found")
    if account.id == g.caller.account_id:
        _keep_operator(body)
    changes = _changes(account, body, options)
    after = accounts.change(g.session, account, changes, options) if changes else account
    if after is None:
        raise Conflict("Another request has changed the account in the meantime. Nothing was changed: try again.")
    if changes:
        log.info("%s changed %s of the account %s", g.caller.name, ", ".join(sorted(changes)), account.id)
    return accounts.managed_document(after)


def _require_active_operator() -> None:
    """Reject a caller whose account is disabled or no longer has the scope `operator`.

    Otherwise, an operator whose account was disabled could enable it again, or create another one.

    :raises NotSignedIn: the account of the caller was disabled.
    :raises InsufficientScope: the account of the caller does not have the scope `operator` any more.
    """
    # The operator token has no account.
    if g.caller.account_id is not None and "operator" not in current_account().scopes:
        raise InsufficientScope("The account of this token does not have the scope operator any more.", "operator")


def _keep_operator(body: AccountChanges) -> None:
    """Reject a change that would lock the caller out: the caller could not undo it.

    :raises Conflict: the caller could not operate the service after this change.
    """
    if body.disabled:
        raise Conflict("This is your own account. Another operator can disable it.")
    if body.scopes is not None and "operator" not in body.scopes:
        raise Conflict("This is your own account. Another operator can remove its scope operator.")


def _changes(account: Account, body: AccountChanges, options: QueryOptions) -> dict[str, Any]:
    """The columns that the request changes. If there are none, the refresh tokens must stay valid."""
    changes: dict[str, Any] = {}
    if body.disabled is not None and body.disabled != account.disabled:
        changes["disabled"] = body.disabled
    if body.scopes is not None and frozenset(body.scopes) != account.scopes:
        changes["scopes"] = frozenset(body.scopes)
    if body.password is not None:
        changes["password_hash"] = current_passwords(options).hash(body.password)
    return changes
