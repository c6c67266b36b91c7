"""What stays on a device and what makes room: the least worth of what no op needs there."""

from collections.abc import Callable, Collection

from backend.schedule.devices import Device, Devices
from backend.types import ComponentId, Seconds

Worth = Callable[[ComponentId], Seconds]  # seconds to bring a component back


def room(
    device: Device,
    need: float,
    keep: Collection[ComponentId],
    worth: Callable[[Device, ComponentId], float],
) -> list[ComponentId] | None:
    """What must go so that `need` more bytes fit. Returns: the victims, none where there is room; None where
    even without all that may go there is none.
    """
    if need <= device.free:
        return []
    victims: list[ComponentId] = []
    free = device.free
    idle = [c for c in device.held if c not in device.pins and c not in keep]
    for component in sorted(idle, key=lambda c: (worth(device, c), c)):
        victims.append(component)
        free += device.held[component].nbytes
        if need <= free:
            return victims
    return None


def worth_of(
    devices: Devices, load: Worth, demand: Callable[[ComponentId], int], now: Seconds
) -> Callable[[Device, ComponentId], float]:
    """A component's worth on a device: the seconds to bring it back, less the longer nobody needed it, and
    the more copies there are; what unfinished jobs want is worth most.
    """

    def worth(device: Device, component: ComponentId) -> float:
        held = device.held[component]
        copies = len(devices.has.get(component, ()))
        wanted = 1 + 10 * demand(component) if copies == 1 else 1
        return wanted * load(component) / copies / (1.0 + max(0.0, now - held.used))

    return worth
