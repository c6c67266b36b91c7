"""What a VIDEO is."""

import io
from abc import ABC, abstractmethod
from fractions import Fraction


class VideoInput(ABC):
    """Pictures in a row, with a frame rate and perhaps sound."""

    @abstractmethod
    def get_components(self):
        """Pictures, sound and frame rate."""

    @abstractmethod
    def save_to(self, path, format=None, codec=None, metadata=None):
        """Write it to a file or a buffer."""

    def get_stream_source(self):
        """A path, or a buffer to read it from."""
        buffer = io.BytesIO()
        self.save_to(buffer)
        buffer.seek(0)
        return buffer

    def get_dimensions(self):
        """(width, height)."""
        images = self.get_components().images
        return images.shape[2], images.shape[1]

    def get_duration(self):
        """Seconds."""
        parts = self.get_components()
        return float(parts.images.shape[0] / parts.frame_rate)

    def get_frame_count(self):
        return int(self.get_components().images.shape[0])

    def get_frame_rate(self):
        return Fraction(self.get_components().frame_rate)

    def get_container_format(self):
        """The name of the container, as `av` has it."""
        import av

        with av.open(self.get_stream_source(), mode="r") as container:
            return container.format.name
