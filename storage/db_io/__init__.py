"""All CQL of the service, a module a table. Functions are named by what they answer, and take the session first."""

from storage.cql.statements import prepared_cache
from storage.db_io.animals import (
    ANIMAL_COLUMNS,
    delete_animal,
    retrieve_animal,
    retrieve_animals_by_genus,
    store_animal,
)
from storage.db_io.cluster import (
    ClusterStatus,
    count_nodes,
    paging_scope,
    retrieve_cluster_status,
    retrieve_release_version,
)
from storage.db_io.idempotency import IdempotencyKey
from storage.db_io.plants import PLANT_COLUMNS, delete_plant, retrieve_plant, retrieve_plants_by_genus, store_plant
from storage.db_io.users import (
    USER_COLUMNS,
    User,
    create_user,
    create_users,
    create_users_once,
    delete_user,
    new_user,
    retrieve_user,
    retrieve_users_page,
    stream_users,
    update_user,
)
