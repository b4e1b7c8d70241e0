"""The daemon's configuration: its keys, the check of each value, and the source that a value came from.

It does no I/O but reading the file, and imports only the standard library, since it runs first.
"""

from fabstird.config.checks import LARGEST as LARGEST
from fabstird.config.checks import MAX_RELAYS as MAX_RELAYS
from fabstird.config.checks import MULTIADDR_PREFIXES as MULTIADDR_PREFIXES
from fabstird.config.checks import host_name as host_name
from fabstird.config.checks import origin as origin
from fabstird.config.checks import split_host_port as split_host_port
from fabstird.config.keys import ApiConfig as ApiConfig
from fabstird.config.keys import Config as Config
from fabstird.config.keys import ConnectionsConfig as ConnectionsConfig
from fabstird.config.keys import DhtConfig as DhtConfig
from fabstird.config.keys import EventsConfig as EventsConfig
from fabstird.config.keys import LogConfig as LogConfig
from fabstird.config.keys import NodeConfig as NodeConfig
from fabstird.config.keys import RelayConfig as RelayConfig
from fabstird.config.keys import StreamsConfig as StreamsConfig
from fabstird.config.keys import TunnelsConfig as TunnelsConfig
from fabstird.config.sources import ConfigError as ConfigError
from fabstird.config.sources import home as home
from fabstird.config.sources import load as load
from fabstird.config.sources import override_node as override_node
from fabstird.config.toml_file import render as render
