"""Small detectors and segmenters as people write them: YOLOs by a list of layers, a pyramid, U-Nets, a DETR."""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Conv(nn.Module):
    def __init__(self, i: int, o: int, k: int = 1, s: int = 1) -> None:
        super().__init__()
        self.conv, self.bn, self.act = nn.Conv2d(i, o, k, s, k // 2, bias=False), nn.BatchNorm2d(o), nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    def __init__(self, width: int, shortcut: bool = True) -> None:
        super().__init__()
        self.cv1, self.cv2, self.add = Conv(width, width), Conv(width, width, 3), shortcut

    def forward(self, x: Tensor) -> Tensor:
        return x + self.cv2(self.cv1(x)) if self.add else self.cv2(self.cv1(x))


class C3(nn.Module):
    def __init__(self, i: int, o: int, shortcut: bool = True, n: int = 1) -> None:
        super().__init__()
        self.cv1, self.cv2, self.cv3 = Conv(i, o // 2), Conv(i, o // 2), Conv(o, o)
        self.m = nn.Sequential(*(Bottleneck(o // 2, shortcut) for _ in range(n)))

    def forward(self, x: Tensor) -> Tensor:
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class C2f(nn.Module):
    def __init__(self, i: int, o: int, shortcut: bool = True) -> None:
        super().__init__()
        self.cv1, self.cv2 = Conv(i, o), Conv(o + o // 2, o)
        self.m = nn.ModuleList([Bottleneck(o // 2, shortcut)])

    def forward(self, x: Tensor) -> Tensor:
        y = list(self.cv1(x).chunk(2, 1))
        y.extend(m(y[-1]) for m in self.m)
        return self.cv2(torch.cat(y, 1))


class SPPF(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.cv1, self.cv2, self.m = Conv(width, width // 2), Conv(width * 2, width), nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.cv1(x)
        y = self.m(x)
        z = self.m(y)
        return self.cv2(torch.cat((x, y, z, self.m(z)), 1))


class PSA(nn.Module):
    """The attention block at the end of newer backbones: two sums on half of the channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.cv1, self.cv2, self.qkv = Conv(width, width), Conv(width, width), nn.Conv2d(half, 3 * half, 1)
        self.proj, self.ffn = nn.Conv2d(half, half, 1), nn.Sequential(Conv(half, width), nn.Conv2d(width, half, 1))

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.cv1(x).chunk(2, 1)
        q, k, v = self.qkv(b).flatten(2).chunk(3, 1)
        b = b + self.proj((v @ (q.transpose(1, 2) @ k).softmax(-1).transpose(1, 2)).view(b.shape))
        b = b + self.ffn(b)
        return self.cv2(torch.cat((a, b), 1))


class Concat(nn.Module):
    def forward(self, x: list[Tensor]) -> Tensor:
        return torch.cat(x, 1)


class Detect(nn.Module):
    """Boxes and classes of each map, put together along the places."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.cv2 = nn.ModuleList(nn.Sequential(Conv(w, 8, 3), Conv(8, 8, 3), nn.Conv2d(8, 4, 1)) for w in widths)
        self.cv3 = nn.ModuleList(nn.Sequential(Conv(w, 8, 3), Conv(8, 8, 3), nn.Conv2d(8, 3, 1)) for w in widths)

    def forward(self, x: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        maps = [torch.cat((box(m), name(m)), 1) for m, box, name in zip(x, self.cv2, self.cv3, strict=True)]
        return torch.cat([m.flatten(2) for m in maps], 2), maps


class Yolo(nn.Module):
    """Layers in one Sequential, each with the index of what it takes; -1 is the layer before."""

    def __init__(self, layers: list[tuple[int | list[int], nn.Module]]) -> None:
        super().__init__()
        self.model = nn.Sequential(*(layer for _, layer in layers))
        for index, (source, layer) in enumerate(layers):
            layer.i, layer.f = index, source

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, list[Tensor]]:
        y: list[Tensor] = []
        for m in self.model:
            if m.f != -1:
                x = y[m.f] if isinstance(m.f, int) else [x if j == -1 else y[j] for j in m.f]
            x = m(x)
            y.append(x)
        return x


def _yolo(block: type[nn.Module], ends: list[nn.Module], lateral: bool) -> Yolo:
    """Backbone 0 to 8 (and the ends), a neck from the top down and up again, a head on three maps."""
    down = [
        (-1, Conv(3, 8, 3, 2)),
        (-1, Conv(8, 8, 3, 2)),
        (-1, block(8, 8)),
        (-1, Conv(8, 16, 3, 2)),
        (-1, block(16, 16)),
    ]
    down += [(-1, Conv(16, 24, 3, 2)), (-1, block(24, 24)), (-1, Conv(24, 32, 3, 2)), (-1, block(32, 32))]
    layers: list[tuple[int | list[int], nn.Module]] = [*down, *((-1, end) for end in ends)]
    if lateral:
        layers.append((-1, Conv(32, 32)))
    top = len(layers) - 1
    layers += [(-1, nn.Upsample(scale_factor=2)), ([-1, 6], Concat()), (-1, block(56, 24, False))]
    layers += [(-1, nn.Upsample(scale_factor=2)), ([-1, 4], Concat()), (-1, block(40, 16, False))]
    layers += [(-1, Conv(16, 16, 3, 2)), ([-1, top + 3], Concat()), (-1, block(40, 24, False))]
    layers += [(-1, Conv(24, 24, 3, 2)), ([-1, top], Concat()), (-1, block(56, 32, False))]
    layers.append(([top + 6, top + 9, top + 12], Detect((16, 24, 32))))
    return Yolo(layers)


def yolov5() -> Yolo:
    """The backbone ends at 9, a 1x1 layer stands before the first enlargement."""
    return _yolo(C3, [SPPF(32)], lateral=True)


def yolov8() -> Yolo:
    """The backbone ends at 9."""
    return _yolo(C2f, [SPPF(32)], lateral=False)


def yolov11() -> Yolo:
    """The backbone ends at 10."""
    return _yolo(C2f, [SPPF(32), PSA(32)], lateral=False)


def yolov12() -> Yolo:
    """Nothing stands behind the last block, 8."""
    return _yolo(C2f, [], lateral=False)


class Body(nn.Module):
    """Residual stages at strides 4, 8, 16 and 32."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Conv(3, 8, 3, 2)
        for stage, (i, o) in enumerate(((8, 8), (8, 16), (16, 24), (24, 32)), start=1):
            self.add_module(f"layer{stage}", nn.Sequential(Conv(i, o, 3, 2), Bottleneck(o), Bottleneck(o)))

    def forward(self, x: Tensor) -> list[Tensor]:
        maps, x = [], self.stem(x)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            maps.append(x)
        return maps


class Fpn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ModuleList(nn.Conv2d(w, 16, 1) for w in (16, 24, 32))
        self.outer = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(3))
        self.p6, self.p7 = nn.Conv2d(32, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, 2, 1)

    def forward(self, maps: list[Tensor]) -> OrderedDict[str, Tensor]:
        last = self.inner[-1](maps[-1])
        out = [self.outer[-1](last)]
        for i in (1, 0):
            last = self.inner[i](maps[i + 1]) + F.interpolate(last, scale_factor=2)
            out.insert(0, self.outer[i](last))
        p6 = self.p6(maps[-1])
        return OrderedDict(zip("34567", [*out, p6, self.p7(F.relu(p6))], strict=True))


class Tower(nn.Module):
    def __init__(self, out: int) -> None:
        super().__init__()
        self.tower, self.out = nn.Sequential(Conv(16, 16, 3), Bottleneck(16)), nn.Conv2d(16, out, 3, padding=1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        found = [self.out(self.tower(m)) for m in maps]
        return torch.cat([y.permute(0, 2, 3, 1).reshape(y.shape[0], -1, 4) for y in found], 1)


class RetinaNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.fpn, self.classes, self.boxes = Body(), Fpn(), Tower(8), Tower(4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        maps = list(self.fpn(self.body(x)).values())
        return self.classes(maps), self.boxes(maps)


class Double(nn.Sequential):
    def __init__(self, i: int, o: int) -> None:
        super().__init__(Conv(i, o, 3), Conv(o, o, 3))


class Up(nn.Module):
    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.up, self.conv = nn.ConvTranspose2d(i, i // 2, 2, 2), Double(i, o)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        return self.conv(torch.cat([high, self.up(low)], 1))


class UNet(nn.Module):
    """Modules for everything."""

    def __init__(self) -> None:
        super().__init__()
        self.inc, self.outc = Double(3, 8), nn.Conv2d(8, 2, 1)
        self.down1, self.down2 = (nn.Sequential(nn.MaxPool2d(2), Double(w, 2 * w)) for w in (8, 16))
        self.up1, self.up2 = Up(32, 16), Up(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        one = self.inc(x)
        two = self.down1(one)
        return self.outc(self.up2(self.up1(self.down2(two), two), one))


class FlatUNet(nn.Module):
    """Written in one forward, with residual blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.enc1, self.enc2, self.mid = (
            nn.Sequential(Conv(i, o), Bottleneck(o)) for i, o in ((3, 8), (8, 16), (16, 32))
        )
        self.dec2, self.dec1 = (nn.Sequential(Conv(i, o), Bottleneck(o)) for i, o in ((48, 16), (24, 8)))
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.enc1(x)
        two = self.enc2(F.max_pool2d(one, 2))
        low = self.mid(F.max_pool2d(two, 2))
        low = self.dec2(torch.cat([F.interpolate(low, scale_factor=2), two], 1))
        return self.out(self.dec1(torch.cat([F.interpolate(low, scale_factor=2), one], 1)))


class Detr(nn.Module):
    """A residual body, a transformer over the tokens of its last map, learned queries."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.project = Body(), nn.Conv2d(32, 16, 1)
        self.transformer = nn.Transformer(16, 2, 2, 2, 32, batch_first=True)
        self.queries, self.names, self.boxes = nn.Parameter(torch.rand(5, 16)), nn.Linear(16, 3), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.project(self.body(x)[-1]).flatten(2).transpose(1, 2)
        out = self.transformer(tokens, self.queries.expand(x.shape[0], -1, -1))
        return self.names(out), self.boxes(out)


class WithDecoder(nn.Module):
    """No skips: what enlarges is the neck, the last layer the head."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.last = Body(), nn.Conv2d(8, 3, 1)
        self.up1, self.up2 = (nn.Sequential(nn.ConvTranspose2d(i, o, 2, 2), nn.ReLU()) for i, o in ((32, 16), (16, 8)))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.up2(self.up1(self.body(x)[-1])))


class DeepLab(nn.Module):
    """A pooled context and parallel convolutions at the end of a body, enlarged at last."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.out = Body(), nn.Conv2d(8, 2, 1)
        self.classifier = nn.Sequential(Aspp(), Conv(16, 8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self.out(self.classifier(self.body(x)[-1])), x.shape[2:])


class Aspp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.near, self.far = Conv(32, 8), nn.Conv2d(32, 8, 3, padding=2, dilation=2)
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), Conv(32, 8))
        self.project = Conv(24, 16)

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.interpolate(self.pooled(x), x.shape[2:])
        return self.project(torch.cat([self.near(x), self.far(x), pooled], 1))
