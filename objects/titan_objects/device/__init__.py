"""Devices: objects bound to a node that stand for the outside world.

Their operator describes them in the node's TOML file, one `[[device]]` table each: a `sensor`, an `actuator` or an
`application`. What is not listed there, nobody can reach.
"""

from collections.abc import Mapping
from typing import Any

from titan_objects.device.actuator import Actuator
from titan_objects.device.application import Application
from titan_objects.device.messages import Act, Commands, Outcome, Read, Reading, Watch
from titan_objects.device.sensor import Sensor
from titan_objects.device.tables import ActuatorTable, ApplicationTable, SensorTable, parse

__all__ = [
    "Act",
    "Actuator",
    "Application",
    "Commands",
    "Device",
    "Outcome",
    "Read",
    "Reading",
    "Sensor",
    "Watch",
]


class Device:
    """The plugin `device` of the entry-point group `titan_overlay.objects`.

    Any installed type can be set up from TOML: a node calls `from_config(table)` of the plugin that has the table's
    name, and publishes the instance under `table["name"]`.
    """

    @classmethod
    def from_config(cls, table: Mapping[str, Any]) -> Sensor | Actuator | Application:
        """The device that a table describes.

        Raises:
            ConfigError: the text names the device, the key, and what would be right.
        """
        match parse(table):
            case SensorTable() as sensor:
                return Sensor(sensor)
            case ActuatorTable() as actuator:
                return Actuator(actuator)
            case ApplicationTable() as application:
                return Application(application)
