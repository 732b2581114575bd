"""Worker of training.py: the same networks and step in Keras. argv = device, batch size, dtype policy."""

import os
import sys
import time

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"  # the GPU's memory is shared with the other workers
if sys.argv[1] == "cpu":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

import keras
import tensorflow as tf
from keras import layers

assert bool(tf.config.list_physical_devices("GPU")) == (sys.argv[1] == "cuda"), "TensorFlow does not see the GPU"
batch_size = int(sys.argv[2])
keras.mixed_precision.set_global_policy(sys.argv[3])


def up(filters: int, stride: int, activation: str | None = None) -> layers.Layer:
    return layers.Conv2DTranspose(filters, 5, stride, "same", use_bias=False, activation=activation)


generator = keras.Sequential(
    [
        keras.Input((100,)),
        layers.Dense(7 * 7 * 256, use_bias=False),
        layers.BatchNormalization(),
        layers.LeakyReLU(),
        layers.Reshape((7, 7, 256)),
        up(128, 1),
        layers.BatchNormalization(),
        layers.LeakyReLU(),
        up(64, 2),
        layers.BatchNormalization(),
        layers.LeakyReLU(),
        up(1, 2, "tanh"),
    ]
)
discriminator = keras.Sequential(
    [
        keras.Input((28, 28, 1)),
        layers.Conv2D(64, 5, 2, "same"),
        layers.LeakyReLU(),
        layers.Dropout(0.3),
        layers.Conv2D(128, 5, 2, "same"),
        layers.LeakyReLU(),
        layers.Dropout(0.3),
        layers.Flatten(),
        layers.Dense(1, dtype="float32"),
    ]
)
assert (generator.count_params(), discriminator.count_params()) == (2_330_944, 212_865)
g_optimizer, d_optimizer = keras.optimizers.Adam(1e-4), keras.optimizers.Adam(1e-4)


@tf.function
def step(images: tf.Tensor) -> None:
    with tf.GradientTape() as g_tape, tf.GradientTape() as d_tape:
        fake = generator(tf.random.normal([batch_size, 100]), training=True)
        real_logits = discriminator(images, training=True)
        fake_logits = discriminator(fake, training=True)
        g_loss = tf.reduce_mean(tf.nn.softplus(-fake_logits))
        d_loss = tf.reduce_mean(tf.nn.softplus(-real_logits)) + tf.reduce_mean(tf.nn.softplus(fake_logits))
    g_weights, d_weights = generator.trainable_variables, discriminator.trainable_variables
    g_optimizer.apply_gradients(zip(g_tape.gradient(g_loss, g_weights), g_weights, strict=True))
    d_optimizer.apply_gradients(zip(d_tape.gradient(d_loss, d_weights), d_weights, strict=True))


def finished() -> float:
    generator.trainable_variables[0].numpy()  # waits for the device
    return time.perf_counter()


images = tf.random.uniform([batch_size, 28, 28, 1], -1, 1)
for _ in range(3):
    step(images)
print(f"keras {keras.__version__} on TensorFlow {tf.__version__}", flush=True)
for line in sys.stdin:
    steps = int(line)
    start = finished()
    for _ in range(steps):
        step(images)
    print(steps * batch_size / (finished() - start), flush=True)
