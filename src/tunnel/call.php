<?php
// Run by a master to call one of its services. Whatever the service gives or throws, the master lives: nothing but
// plain data within the bounds of a message reaches the stream, and no exception leaves the closure.
// The stream gets {value: …} for each value, or at last {error: {class, message, code}}.
return function ($stream) use ($service, $method, $arguments, $room, $levels) {
    $fail = function ($error) use ($stream) {
        if (!$error instanceof \Throwable) {
            $error = new \RuntimeException('rejected with a value of type ' . get_debug_type($error));
        }
        $stream->end(['error' => [
            'class' => strstr(get_class($error) . "\0", "\0", true),
            'message' => substr($error->getMessage(), 0, 8192),
            'code' => is_int($error->getCode()) ? $error->getCode() : 0,
        ]]);
    };
    $plain = function ($value, int $levels, int &$left) use (&$plain) {
        // Objects first, as they become arrays and texts.
        if (is_object($value)) {
            foreach (['Closure', 'Generator', 'React\Promise\PromiseInterface'] as $class) {
                if ($value instanceof $class) {
                    throw new \UnexpectedValueException("a $class cannot be sent");
                }
            }
            $json = json_encode($value, JSON_THROW_ON_ERROR | JSON_PRESERVE_ZERO_FRACTION);
            $value = json_decode($json, true, 512, JSON_THROW_ON_ERROR);
        }
        $left -= 16 + (is_string($value) ? strlen($value) : 0);
        if ($left < 0 || (is_array($value) && $levels < 1)) {
            throw new \LengthException('the result is larger or nested deeper than a message may be');
        }
        if (is_array($value)) {
            $copy = [];
            foreach ($value as $key => $element) {
                $left -= 16 + strlen($key);
                $copy[$key] = $plain($element, $levels - 1, $left);
            }
            return $copy;
        }
        if ($value !== null && !is_scalar($value)) {
            throw new \UnexpectedValueException('a ' . get_debug_type($value) . ' cannot be sent');
        }
        return $value;
    };
    $send = function ($result) use ($stream, $plain, $fail, $room, $levels) {
        try {
            // Null is no value, but one among many is.
            foreach ($result instanceof \Generator ? $result : ($result === null ? [] : [$result]) as $value) {
                $left = $room;
                $stream->write(['value' => $plain($value, $levels, $left)]);
            }
            $stream->end();
        } catch (\Throwable $error) {
            $fail($error);
        }
    };
    try {
        $result = \ReactphpX\RegisterCenter\ServiceRegistry::execute($service, $method, $arguments);
        if ($result instanceof \React\Promise\PromiseInterface) {
            $result->then($send, $fail);
        } else {
            $send($result);
        }
    } catch (\Throwable $error) {
        $fail($error);
    }
    return $stream;
};
